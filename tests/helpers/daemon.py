"""A running `ns7 run`, seen as an operator sees it: its output, its exit code, its control socket.

Every end is an examination: nothing may be left in flight, every query must be accounted for, the exit code
must be 0, no process may be left, and no traceback or broken invariant may stand in the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.helpers import processes
from tests.helpers.config import Server, Settings
from tests.helpers.ports import free_address
from tests.helpers.waiting import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
# NS7_COMMAND tests an installed ns7 instead of this tree.
COMMAND = shlex.split(os.environ.get("NS7_COMMAND", "")) or [sys.executable, "-m", "balancer"]
# What no log may hold: an unhandled exception, and what the debug build says of a worker before it ends it.
FATAL = ("Traceback", "broken invariant", "runtime error:", "AddressSanitizer")
STARTING = 40.0
STOPPING = 40.0
Process = subprocess.Popen[bytes] | processes.Followed


def run_command(
    *arguments: str, prefix: Sequence[str] = (), seconds: float = 30
) -> subprocess.CompletedProcess[str]:
    """`ns7 arguments…` to its end."""
    argv = [*prefix, *COMMAND, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, cwd=ROOT, check=False)


class Balancer:
    """One ns7 with one service named "dns"; a context manager.

    `prefix` runs it under another program (`ip netns exec …`, `setpriv …`); `settings` are `Settings`' own.
    """

    def __init__(
        self,
        folder: Path,
        servers: Sequence[str | Server],
        listen: Sequence[str] | None = None,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        traceback: bool = False,
        command: Sequence[str] = COMMAND,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.settings = Settings(servers, listen or [free_address()], **settings)
        self.control, self.config, self.log = folder / "ns7.sock", folder / "ns7.toml", folder / "ns7.log"
        self.config.write_text(self.settings.text(self.control))
        self._ended = False
        self._traceback = traceback
        self.log.write_bytes(b"")
        self.process: Process = self._launch([*prefix, *command, "run", "-c", str(self.config)], dict(env or {}))
        self._handed_over: list[Process] = []
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def _launch(self, argv: Sequence[str], env: dict[str, str]) -> Process:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def address(self) -> str:
        return self.settings.listen[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, seconds: float = STARTING) -> None:
        """Until `ns7 ready`; AssertionError with the output when it ends or does not come."""
        deadline = time.monotonic() + seconds
        while "ns7 ready" not in self.output():
            code = self.process.poll()
            assert code is None, f"ns7 ended with exit code {code} instead of getting ready:\n{self.output()}"
            assert time.monotonic() < deadline, f"ns7 not ready after {seconds:g} s:\n{self.output()}"
            time.sleep(0.02)

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One request over the control socket; the whole answer line."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.control))
            sock.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line = b""
            while not line.endswith(b"\n") and (piece := sock.recv(65536)):
                line += piece
        answer: dict[str, Any] = json.loads(line)
        return answer

    def status(self) -> dict[str, Any]:
        answer = self.request("status")
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def service(self) -> dict[str, Any]:
        """The one service's part of the status."""
        service: dict[str, Any] = self.status()["services"][0]
        return service

    def server(self, number: int = 0) -> dict[str, Any]:
        server: dict[str, Any] = self.service()["servers"][number]
        return server

    def dropped(self) -> dict[str, int]:
        """Drops by reason, only those that happened."""
        return {reason: count for reason, count in self.service()["dropped"].items() if count}

    def ignored(self, number: int = 0) -> dict[str, int]:
        """Ignored datagrams of one server by reason, only those that happened."""
        return {reason: count for reason, count in self.server(number)["ignored"].items() if count}

    def tcp(self) -> dict[str, Any]:
        """The one service's TCP part of the status."""
        tcp: dict[str, Any] = self.service()["tcp"]
        return tcp

    def tcp_server(self, number: int = 0) -> dict[str, Any]:
        tcp: dict[str, Any] = self.server(number)["tcp"]
        return tcp

    def tcp_told(self, what: str) -> dict[str, int]:
        """TCP's "dropped" or "closed" by reason, only those that happened."""
        return {reason: count for reason, count in self.tcp()[what].items() if count}

    def wait_tcp(self, what: str, expected: Mapping[str, int]) -> None:
        """Until TCP's "dropped" or "closed" by reason are exactly these."""
        wait_for(f"tcp {what} {expected}", lambda: self.tcp_told(what) == expected or None, every=0.05)

    def workers(self) -> list[int]:
        return [int(worker["pid"]) for worker in self.status()["workers"]]

    def kill_worker(self, number: int = 0) -> None:
        """SIGKILL, and until its successor listens."""
        before = self.workers()[number]
        os.kill(before, signal.SIGKILL)
        wait_for(
            "a successor", lambda: (found := self.status()["workers"][number])["pid"] != before and found["listening"]
        )

    def wait_dropped(self, expected: Mapping[str, int]) -> None:
        """Until the drops by reason are exactly these."""
        wait_for(f"drops {expected}", lambda: self.dropped() == expected or None, every=0.05)

    def wait_idle(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The service's status once nothing is in flight and every query is accounted for.

        Each counter is exact, a status is not a snapshot: an answer is counted after it was sent.
        """
        deadline = time.monotonic() + seconds
        while True:
            service = self.service()
            pending = service["inflight"] or service["tcp"]["inflight"]
            pending = pending or any(server["inflight"] for server in service["servers"])
            if not pending and all(
                counters["queries"]
                == counters["answers"] + sum(counters["dropped"].values()) + counters["timeouts"]
                for counters in (service, service["tcp"])
            ):
                return service
            assert time.monotonic() < deadline, f"not at rest after {seconds:g} s: {service}"
            time.sleep(0.05)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The workers stand still, so that all sent meanwhile is read as one batch. Well under a second."""
        pids = self.workers()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_for("workers stopped", lambda: all(processes.stopped(pid) for pid in pids), every=0.001)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def rewrite(self, **settings: Any) -> None:
        """Change the configuration file only."""
        self.settings = dataclasses.replace(self.settings, **settings)
        self.config.write_text(self.settings.text(self.control))

    def command(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ns7 verb` toward this ns7."""
        return run_command(verb, *arguments, "--socket", str(self.control), seconds=120)

    def reload(self, **settings: Any) -> None:
        """Change the configuration and apply it; AssertionError when refused."""
        self.rewrite(**settings)
        done = self.command("reload")
        assert done.returncode == 0, f"reload: exit code {done.returncode}\n{done.stdout}{done.stderr}"

    def upgrade(self) -> None:
        """`ns7 upgrade`; AssertionError when it is refused. From now on this is the new one."""
        before = self.pid
        done = self.command("upgrade")
        assert done.returncode == 0, f"upgrade: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        self.follow(self.status()["pid"])
        assert self.pid != before

    def follow(self, pid: int) -> None:
        """The supervisor is another process now; the one until now ends by itself."""
        self._handed_over.append(self.process)
        self.process = processes.Followed(pid)

    def wait_handed_over(self, seconds: float = STOPPING) -> None:
        """Until the supervisors from before the upgrades have ended, in order, and are counted as past."""
        for one in self._handed_over:
            code = one.wait(seconds)
            assert code == 0, f"a supervisor that has handed over: exit code {code}\n{self.output()}"
        self._handed_over.clear()
        wait_for("nobody retires", lambda: self.status()["retiring"] == 0)

    def terminate(self) -> None:
        self.process.terminate()

    def wait_ended(self, code: int = 0, seconds: float = STOPPING) -> None:
        """Until ns7 and all its processes are gone; the exit code and the log must be as they should."""
        members = processes.tree(self.pid)
        try:
            ended = self.process.wait(seconds)
            assert ended == code, f"exit code {ended}, expected {code}:\n{self.output()}"
            wait_for("all processes gone", lambda: not processes.survivors(members))
            self.examine_log()
        finally:
            self._ended = True
            processes.kill(members)

    def examine_log(self) -> None:
        """No traceback, unless the test makes one."""
        for word in FATAL:
            assert word not in self.output() or (self._traceback and word == "Traceback"), self.output()

    def stop(self) -> None:
        """The examined end."""
        if self._ended:
            return
        try:
            code = self.process.poll()
            assert code is None, f"ns7 ended by itself, exit code {code}:\n{self.output()}"
            self.wait_handed_over()
            self.wait_idle()
            self.terminate()
            self.wait_ended()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Without ceremony, for tests that failed already."""
        for one in (*self._handed_over, self.process):
            processes.kill(processes.tree(one.pid))
            one.wait(STOPPING)
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.stop()
        elif not self._ended:
            self.kill()
