"""Whatever a client writes to the control socket, it reads whole JSON answers or the end, and others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from balancer.errors import ControlError
from balancer.process.control import Control

GOOD = b'{"verb": "status"}\n'
SEEDS = (
    GOOD, GOOD * 3, b'{"verb": "refuse"}\n', b'{"verb": "nothing"}\n', b'{"verb": ["status"]}\n', b'["verb"]\n',
    b'{"verb": "status"', b'{"verb": "status", "verb": {}}\n', b'"verb"\n', b"null\n", b"\n\n", b"[" * 3000 + b"\n",
    b"x" * 70000, b'{"verb": "status", "n": 1e999, "s": "\\ud800"}\r\n', b'\xff\xfe{"\0v\0"\0\n',
)
PATIENCE = 10.0


async def obey(verb: str, _: dict[str, Any], user: str) -> dict[str, bool]:
    assert user
    if verb != "status":
        raise ControlError(f"{verb}: not now")
    return {"fine": True}


async def say(path: str, data: bytes) -> bytes:
    """Everything that is read after `data` was written."""
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.suppress(OSError):              # a connection that was closed before all was written
        writer.write(data)
        writer.write_eof()
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    broken: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ns7-fuzz-") as folder, asyncio.Runner() as runner:
        path = str(Path(folder) / "control.sock")
        control = Control(path, obey)
        runner.get_loop().set_exception_handler(lambda _, context: broken.append(context))
        runner.run(control.start())

        def check(data: bytes) -> None:
            answers = runner.run(say(path, data))
            assert answers == b"" or answers.endswith(b"\n")
            lines = answers.splitlines()
            assert len(lines) <= data.count(b"\n")
            for line in lines:
                answer = json.loads(line)
                assert isinstance(answer["ok"], bool)
                assert ("result" if answer["ok"] else "error") in answer
            assert json.loads(runner.run(say(path, GOOD))) == {"ok": True, "result": {"fine": True}}
            assert not broken, broken

        yield check
        control.close()
