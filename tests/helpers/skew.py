"""A program whose clock is wrong: a library before libc's answers for CLOCK_REALTIME, and for nothing else.

libfaketime would do too, but waits for ever in a program with jemalloc, such as Debian's named.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.helpers.need import require_program

SOURCE = """#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, which, at);
    if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += AHEAD;
    return result;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def ahead(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of a program whose clock is so far ahead."""
    library = folder / f"ahead{seconds}.so"
    subprocess.run([require_program("cc", "gcc"), "-shared", "-fPIC", f"-DAHEAD={seconds}", "-x", "c", "-", "-o",
                    str(library)], input=SOURCE, text=True, check=True)
    return {"LD_PRELOAD": str(library)}
