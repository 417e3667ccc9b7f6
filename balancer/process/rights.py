"""What a child does first: ends with its parent, and gives up every right that its kind does not keep.

capabilities(7): the permitted, effective and inheritable sets are cut to what is kept, the bounding and ambient sets
emptied, and no_new_privs makes sure that nothing it executes brings rights back.
"""

from __future__ import annotations

import ctypes
import os
import signal

from balancer.component import Rights

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_NAME, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 15, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
# include/uapi/linux/capability.h
NUMBERS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12,
    "NET_RAW": 13, "SYS_NICE": 23,
}
HIGHEST = 63                # tried one by one; the kernel refuses those it does not know


def begin(title: str, rights: Rights) -> None:
    """Be a child of the supervisor that is named `title` and keeps only `rights`."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    LIBC.prctl(PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    if os.getppid() == 1:
        os._exit(0)                             # the supervisor died before we asked to be told
    drop(rights)


def drop(rights: Rights) -> None:
    """Keep these capabilities, as far as there are any; what cannot be given up is fatal."""
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()              # effective, permitted, inheritable; twice, low and high words
    if LIBC.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    wanted = sum(1 << NUMBERS[name] for name in rights.capabilities)
    held = sets[1] | sets[4] << 32
    if held >> 8 & 1:                           # CAP_SETPCAP: the bounding set may be cut
        for number in range(HIGHEST + 1):
            LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    kept = wanted & held
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if LIBC.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), "capset")
