"""A clean Debian of the release that this host runs: its own files, this host's kernel, network and way to the package
registries. Needs root.

    python -m tests.helpers.debian COMMAND …        # in a clone of this tree, as ./dev clean does it
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.helpers.need import require_program, require_root
from tests.helpers.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
MAKING = 600                # seconds for debootstrap, or for packages
BOOTING = 120
# How this host reaches the registries; the tree has nothing else of it.
FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs/ca-certificates.crt",
         "/usr/local/share/ca-certificates")
VARIABLES = re.compile(r"(?i)^(.*_proxy|pip_.*|ssl_cert_.*|requests_ca_bundle)$")
# Mounts and processes live in namespaces of their own: they are gone however the command ends. Its root is a mount, as
# on a host: `ip netns` makes it a slave of nobody.
ENTER = """
mount --bind "$1" "$1" || exit 99
mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" || exit 99
root=$1; shift
chroot "$root" "$@"
exit $?
"""


def base() -> Path:
    """What each tree is a copy of; made once."""
    require_root("a tree of its own")
    debootstrap = require_program("debootstrap", "debootstrap")
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    folder = ROOT / "build/clean" / release
    if not folder.exists():
        making = folder.with_suffix(".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        subprocess.run([debootstrap, "--variant=minbase", release, str(making)], check=True, timeout=MAKING,
                       stdout=subprocess.DEVNULL)
        making.rename(folder)
    return folder


class Debian:
    """One tree, gone with the end of the `with` block."""

    def __init__(self) -> None:
        made_from = base()
        self._folder = tempfile.TemporaryDirectory(prefix="ns7-debian-")
        self.root = Path(self._folder.name) / "root"
        subprocess.run(["cp", "-a", str(made_from), str(self.root)], check=True, timeout=MAKING)
        for name in map(Path, FILES):
            place = self.root / name.relative_to("/")
            if name.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-aL", str(name), str(place)], check=True)
        dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
        settings = [line for line in dump.splitlines() if line.startswith("Acquire::") and "{" not in line]
        (self.root / "etc/apt/apt.conf.d/00host").write_text("\n".join(settings) + "\n")
        # As Debian's own container images have it: nobody needs this tree after a power failure.
        (self.root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")

    def argv(self, *command: str | Path) -> list[str]:
        """What runs this command as root in the tree; everything it starts ends with it."""
        passed = [f"{name}={value}" for name, value in os.environ.items() if VARIABLES.match(name)]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(self.root),
                "env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *passed,
                *map(str, command)]

    def run(self, *command: str | Path, seconds: float = 60) -> str:
        """The output of a command that must end with 0."""
        done = subprocess.run(self.argv(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds, check=False)
        assert done.returncode == 0, f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def clone(self) -> None:
        """/root/ns7 is a clone of what is committed here."""
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(self.root / "root/ns7")], check=True)

    def install(self, *packages: str) -> None:
        """Debian packages, or a .deb by its path in the tree; without what is only recommended."""
        self.run("apt-get", "update", "-qq", seconds=MAKING)
        self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends",
                 *packages, seconds=MAKING)

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Booted:
    """A tree in which systemd runs, as on a host, in a network namespace (its path)."""

    def __init__(self, tree: Debian, network: Path) -> None:
        nspawn = require_program("systemd-nspawn", "systemd-container")
        self._container = subprocess.Popen(
            [nspawn, "--quiet", f"--directory={tree.root}", "--boot", "--register=no", "--keep-unit",
             f"--network-namespace-path={network}", "--capability=CAP_NET_ADMIN", "--console=pipe",
             "--kill-signal=SIGRTMIN+3"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._init = wait_for("the container's first process", self._find)
            wait_for("systemd", lambda: self._ask("systemctl", "is-system-running").stdout.strip() in (
                "running", "degraded"), BOOTING, every=0.3)
        except BaseException:
            self.close()
            raise

    def _find(self) -> str:
        """Its pid, once it is systemd: nspawn forks twice."""
        pid = self._container.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        return ""

    def _ask(self, *command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nsenter", "--target", self._init, "--all", *command], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)

    def run(self, *command: str, seconds: float = 60) -> str:
        """The output of a command that must end with 0."""
        done = self._ask(*command, seconds=seconds)
        assert done.returncode == 0, f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def close(self) -> None:
        """Shut it down."""
        self._container.terminate()
        try:
            self._container.wait(30)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main(command: list[str]) -> int:
    """Run it in a clone, its output as it comes, and tell how long it took."""
    with Debian() as tree:
        tree.clone()
        started = time.monotonic()
        script = 'cd /root/ns7 && exec "$@"'
        code = subprocess.run(tree.argv("sh", "-c", script, "sh", *command), check=False).returncode
        print(f"{shlex.join(command)}: exit code {code} after {time.monotonic() - started:.0f} s", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
