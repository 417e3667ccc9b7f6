"""One target for a bounded time, in this process: `python -m tests.fuzz.trial TARGET --seconds N`.

Coverage-guided by atheris where the target's code is Python and atheris is there, else mutated seeds. The input being
tried lies in build/fuzz/TARGET.input, so it is known even when the process is killed by it.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import random
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.mutation import MOST_BYTES, mutate
from tests.fuzz.targets import COMPILED, NAMES, load

FOLDER = Path("build/fuzz")
ROOM = 1 << 17


class Notebook:
    """The input being tried, in a file that outlives the process. Layout: length (4 bytes), the input."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:
            file.truncate(ROOM)
            self._map = mmap.mmap(file.fileno(), ROOM)

    def note(self, data: bytes) -> None:
        self._map[4:4 + len(data)] = data
        self._map[:4] = len(data).to_bytes(4, "big")

    @staticmethod
    def read(path: Path) -> bytes:
        noted = path.read_bytes()
        return noted[4:4 + int.from_bytes(noted[:4], "big")]


def mutated(name: str, seconds: float, seed: int) -> None:
    """The seeds, then mutations of them until the time is over."""
    target, notebook = load(name), Notebook(FOLDER / f"{name}.input")
    chance, tried, end = random.Random(seed), 0, time.monotonic() + seconds
    with target.opened() as check:
        for data in itertools.chain(target.SEEDS, iter(lambda: mutate(target.SEEDS, chance), None)):
            if tried >= len(target.SEEDS) and time.monotonic() > end:
                break
            notebook.note(data)
            check(data)
            tried += 1
    print(f"{name}: {tried:,} inputs, seed {seed}")


def guided(name: str, seconds: float, seed: int) -> None:
    """The same by atheris, which keeps what reaches new code. Its loop ends the process."""
    import atheris

    corpus, left = FOLDER / f"{name}.corpus", FOLDER / f"{name}.tmp"
    corpus.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(left, ignore_errors=True)     # nothing is cleaned up when the process is ended from within
    left.mkdir()
    tempfile.tempdir = str(left)
    with atheris.instrument_imports(include=["balancer", "tomllib"]):
        target = load(name)
        with target.opened() as check:
            check(target.SEEDS[0])              # what is imported at first use is to be followed too
    for number, data in enumerate(target.SEEDS):
        (corpus / f"seed-{number}").write_bytes(data)
    print(f"{name}: guided by coverage, seed {seed}", flush=True)
    with target.opened() as check:
        options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed}", f"-max_len={MOST_BYTES}",
                   f"-artifact_prefix={FOLDER}/{name}-", "-verbosity=0", "-print_final_stats=1"]
        atheris.Setup(["fuzz", *options, str(corpus)], check)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.trial")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--input", type=Path, help="try this one input and no other")
    arguments = parser.parse_args()
    if arguments.input:
        noted = arguments.input.suffix == ".input"
        with load(arguments.target).opened() as check:
            check(Notebook.read(arguments.input) if noted else arguments.input.read_bytes())
    elif arguments.target in COMPILED or find_spec("atheris") is None:
        mutated(arguments.target, arguments.seconds, arguments.seed)
    else:
        guided(arguments.target, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
