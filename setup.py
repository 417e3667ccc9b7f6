"""Builds the compiled extensions; everything else stands in pyproject.toml.

NS7_DEBUG=1 makes the debug build: bounds checks, invariants asserted (balancer/table/debug.h), memory errors and
undefined behaviour fatal (the interpreter must load libasan first, see tests/debug_build), no optimisation that hides
a line from the debugger. NS7_TESTS=1 also builds what only tests and benchmarks import (tests/). NS7_EXTENSIONS=0
builds none: `./dev` installs the package first and compiles in place after. Cython looks up .pxd files from the top
folder, so run it from here.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("NS7_DEBUG") == "1"
FOLDERS = ["balancer", "tests"] if os.environ.get("NS7_TESTS") == "1" else ["balancer"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "embedsignature": True,
}
FLAGS = ["-O3", "-g1"]
LINK_FLAGS: list[str] = []
if DEBUG:
    FLAGS = ["-O1", "-g", "-DNS7_DEBUG=1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    LINK_FLAGS = ["-fsanitize=address,undefined"]


def extensions() -> list[Extension]:
    """One extension per .pyx, named after its path (balancer/table/table.pyx → balancer.table.table)."""
    return [
        Extension(".".join(path.with_suffix("").parts), [str(path)], extra_compile_args=[*FLAGS, "-Wall"],
                  extra_link_args=LINK_FLAGS, include_dirs=["balancer/table"], depends=["balancer/table/debug.h"])
        for folder in FOLDERS for path in sorted(Path(folder).rglob("*.pyx"))
    ]


if os.environ.get("NS7_EXTENSIONS") == "0":
    setup()
else:
    cores = os.cpu_count() or 1
    setup(ext_modules=cythonize(extensions(), compiler_directives=DIRECTIVES, nthreads=cores, build_dir="build/cython"),
          options={"build_ext": {"parallel": cores}})
