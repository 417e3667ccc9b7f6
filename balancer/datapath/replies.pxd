"""Answers that ns7 makes itself, and which queries belong to the primary server (RFC 1035, 1996, 2136, 5936)."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from balancer.datapath.wire cimport (
    HEADER_BYTES, OPCODE_NOTIFY, OPCODE_UPDATE, TYPE_AXFR, TYPE_IXFR, opcode_of, read16, write16,
)

cdef enum:
    TYPE_SOA = 6
    TYPE_OPT = 41                       # RFC 6891
    RCODE_WIRE_SERVFAIL = 2
    OPT_BYTES = 11
    OUR_PAYLOAD = 1232                  # what we say we take over UDP (DNS flag day 2020)

cdef inline bint belongs_to_primary(const uint8_t *message, int question_end) noexcept nogil:
    """UPDATE, NOTIFY, and what a secondary asks: SOA, AXFR, IXFR. `question_end`: see wire.question_end."""
    cdef int opcode = opcode_of(message), qtype
    if opcode == OPCODE_UPDATE or opcode == OPCODE_NOTIFY:
        return True
    if opcode != 0 or question_end == 0:
        return False
    qtype = read16(message + question_end - 4)
    return qtype == TYPE_SOA or qtype == TYPE_AXFR or qtype == TYPE_IXFR

cdef inline bint is_transfer(const uint8_t *message, int question_end) noexcept nogil:
    cdef int qtype
    if opcode_of(message) != 0 or question_end == 0:
        return False
    qtype = read16(message + question_end - 4)
    return qtype == TYPE_AXFR or qtype == TYPE_IXFR

cdef inline bint only_primary(const uint8_t *message) noexcept nogil:
    """No other server can do it: UPDATE and NOTIFY."""
    cdef int opcode = opcode_of(message)
    return opcode == OPCODE_UPDATE or opcode == OPCODE_NOTIFY

cdef inline int write_error(uint8_t *target, const uint8_t *message, int size, int end, int rcode) noexcept nogil:
    """An answer with `rcode` to `message`: its header, its first question (which ends at `end`, 0: none) and, when it
    had one right behind that, an OPT. At most max(end, 12) + 11 bytes, never more than `size`. Returns its size.

    `target` may be `message` itself.
    """
    cdef int at = end if end else HEADER_BYTES
    cdef bint edns = (end and end + OPT_BYTES <= size and read16(message + 4) == 1 and read16(message + 6) == 0
                      and read16(message + 8) == 0 and read16(message + 10) and message[end] == 0
                      and read16(message + end + 1) == TYPE_OPT)
    cdef uint8_t do_bit = message[end + 7] & 0x80 if edns else 0
    if target != message:
        memcpy(target, message, at)
    target[2] = (message[2] & 0x79) | 0x80      # QR, OPCODE and RD; AA and TC off
    target[3] = <uint8_t>rcode
    memset(target + 4, 0, 8)
    if end:
        write16(target + 4, 1)
    if edns:
        write16(target + 10, 1)
        memset(target + at, 0, OPT_BYTES)
        write16(target + at + 1, TYPE_OPT)
        write16(target + at + 3, OUR_PAYLOAD)
        target[at + 7] = do_bit                  # RFC 3225 §3: the DO bit is copied
        at += OPT_BYTES
    return at
