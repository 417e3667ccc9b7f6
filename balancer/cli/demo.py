"""`ns7 demo`: a balancer on loopback over two embedded DNS servers. Needs no privileges, changes nothing."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PORT = 5300
ZONE = """$ORIGIN example.com.
@ 60 SOA ns1 hostmaster 1 3600 600 86400 60
@ 60 NS ns1
ns1 60 A 192.0.2.1
www 60 A 192.0.2.80
www 60 AAAA 2001:db8::80
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = commands.add_parser("demo", help="try it: a balancer over two small DNS servers on loopback")
    command.add_argument("--port", type=int, default=PORT, help="port of the balancer (%(default)s)")
    command.add_argument("--seconds", type=float, help="end by itself after so long")
    command.set_defaults(run=run)


def _serve(ours: object, name: str) -> None:
    """Answer from the small zone; `server.example.com TXT` tells who answered."""
    import socket

    import dns.flags
    import dns.message
    import dns.rcode
    import dns.rrset
    import dns.zone

    assert isinstance(ours, socket.socket)
    zone = dns.zone.from_text(ZONE, relativize=False)
    assert zone.origin is not None
    while True:
        data, client = ours.recvfrom(65535)
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except Exception:               # a datagram that is no DNS query gets no answer, whatever is wrong with it
            continue
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        found = zone.get_rrset(question.name, question.rdtype)
        if question.name.to_text().lower() == "server.example.com.":
            answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", "TXT", f'"{name}"'))
        elif found is not None:
            answer.answer.append(found)
        elif zone.get_node(question.name) is None:
            answer.set_rcode(dns.rcode.NXDOMAIN if question.name.is_subdomain(zone.origin) else dns.rcode.REFUSED)
        ours.sendto(answer.to_wire(), client)


def run(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C; the live table is drawn where there is a terminal."""
    import socket

    servers = []
    for name in ("one", "two"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        threading.Thread(target=_serve, args=(server, name), daemon=True).start()
        servers.append((name, server.getsockname()[1]))
    with tempfile.TemporaryDirectory(prefix="ns7-demo-") as folder:
        control = f"{folder}/control.sock"
        config = Path(folder) / "ns7.toml"
        config.write_text(
            f'[[service]]\nname = "demo"\nlisten = ["127.0.0.1:{arguments.port}"]\n'
            + "".join(f'[[service.server]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n' for name, port in servers)
            + f'[process]\nworkers = 1\nstate_dir = "{folder}"\n[admin]\nsocket = "{control}"\n')
        child = subprocess.Popen([sys.executable, "-P", "-m", "balancer", "run", "-c", str(config)],
                                 env={key: value for key, value in os.environ.items() if key != "NS7_NODE"})
        print(f"""
Two DNS servers for example.com stand behind 127.0.0.1:{arguments.port}. Try:
    dig @127.0.0.1 -p {arguments.port} www.example.com
    dig @127.0.0.1 -p {arguments.port} server.example.com TXT      # who answered?
    ns7 status --socket {control}
    http://127.0.0.1:8053/        # the status page, in a browser
Ctrl-C ends it.
""", flush=True)
        return _watch(child, control, arguments.seconds)


def _watch(child: subprocess.Popen[bytes], control: str, seconds: float | None) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from balancer.cli.asking import request
    from balancer.cli.status import table
    from balancer.errors import ControlError

    where = argparse.Namespace(socket=control, config=None, node=None)
    end = time.monotonic() + seconds if seconds else None
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while child.poll() is None and (end is None or time.monotonic() < end):
                if console.is_terminal:
                    try:
                        live.update(Text("\n".join(table(request(where, "status")))), refresh=True)
                    except ControlError:
                        pass                # not listening yet
                time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    return child.wait()
