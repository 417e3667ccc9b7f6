"""`python -m tests.fuzz [TARGET …] [--seconds N]`: each target in a process of its own, compiled code as debug build.

Exit code 0: every invariant held; 1: one did not, and the input that broke it is named.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import COMPILED, NAMES

ROOT = Path(__file__).resolve().parents[2]
STARTING = 300.0            # seconds beyond --seconds: the debug build is made in them


def run(name: str, arguments: list[str], seconds: float) -> bool:
    """Whether the invariant held."""
    python = ["tests/debug_build", "python"] if name in COMPILED else [sys.executable]
    log = ROOT / "build/fuzz" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run([*python, "-m", "tests.fuzz.trial", name, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
                              stdout=out, stderr=out, timeout=seconds + STARTING, check=False)
    if done.returncode == 0:
        print(f"{name}: held, see {log.relative_to(ROOT)}", flush=True)
        return True
    folder = ROOT / ("build/debug/tree/build/fuzz" if name in COMPILED else "build/fuzz")
    kept = [path for path in (*folder.glob(f"{name}-*"), folder / f"{name}.input") if path.exists()]
    newest = max(kept, key=lambda path: path.stat().st_mtime, default=None)
    print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]))
    print(f"{name}: BROKEN (exit code {done.returncode})", flush=True)
    if newest:
        print(f"once more: ./dev fuzz {name} --input {newest}", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Try to break the parsers.")
    parser.add_argument("target", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, help="of the mutations; random unless told")
    parser.add_argument("--input", type=Path, help="try this one input and no other")
    arguments = parser.parse_args()
    if unknown := set(arguments.target) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    passed = [f"--seconds={arguments.seconds:g}"]
    passed += [f"--seed={arguments.seed}"] if arguments.seed is not None else []
    passed += [f"--input={arguments.input.resolve()}"] if arguments.input else []
    held = [run(name, passed, arguments.seconds) for name in arguments.target or NAMES]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
