"""How commands ask the running supervisor: one request over the control socket."""

from __future__ import annotations

import argparse
import json
import socket
from typing import Any

from balancer.errors import ControlError

DEFAULT_SOCKET = "/run/ns7/control.sock"
PATIENCE = 10.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What every command that asks can be told."""
    command.add_argument("-c", "--config", metavar="FILE", help="take the socket's path from this configuration")
    command.add_argument("--node", help="which host of the file this is")
    command.add_argument("--socket", metavar="PATH", help=f"control socket ({DEFAULT_SOCKET})")
    command.add_argument("--json", action="store_true", help="print plain data")


def request(arguments: argparse.Namespace, verb: str, /, patience: float = PATIENCE, **fields: Any) -> Any:
    """The supervisor's answer to one verb; ControlError when it refuses or does not answer within `patience` s."""
    path = arguments.socket
    if path is None and arguments.config is not None:
        from balancer.config import load

        path = load(arguments.config, arguments.node).admin.socket
    path = path or DEFAULT_SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(patience)
            one.connect(path)
            one.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
            with one.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise ControlError(f"cannot ask ns7 on {path}: {error}") from error
    if not answer["ok"]:
        raise ControlError(answer["error"])
    return answer["result"]
