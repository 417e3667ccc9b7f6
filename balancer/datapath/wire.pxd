"""The few bytes of a DNS message that a balancer reads: header and first question (RFC 1035 §4.1).

Inline, no allocation, no copy. A function that takes a length never reads past it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

cdef enum:
    HEADER_BYTES = 12
    OPCODE_NOTIFY = 4               # RFC 1996
    OPCODE_UPDATE = 5               # RFC 2136
    TYPE_IXFR = 251                 # RFC 1995
    TYPE_AXFR = 252                 # RFC 5936
    LONGEST_NAME = 255              # RFC 1035 §3.1
    RCODE_WIRE_REFUSED = 5

cdef inline uint16_t read16(const uint8_t *at) noexcept nogil:
    return <uint16_t>(at[0] << 8 | at[1])

cdef inline void write16(uint8_t *at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value

cdef inline bint is_response(const uint8_t *message) noexcept nogil:
    return message[2] & 0x80

cdef inline int opcode_of(const uint8_t *message) noexcept nogil:
    return (message[2] >> 3) & 15

cdef inline int rcode_of(const uint8_t *message) noexcept nogil:
    return message[3] & 15

cdef inline uint16_t questions_of(const uint8_t *message) noexcept nogil:
    return read16(message + 4)

cdef inline int question_end(const uint8_t *message, int size) noexcept nogil:
    """Offset behind the first question, or 0 when there is none that can be read.

    A compression pointer in the first name can only point at itself or the header, so it is not followed.
    """
    cdef int at = HEADER_BYTES
    if size < HEADER_BYTES or questions_of(message) == 0:
        return 0
    while at < size and message[at] != 0:
        if message[at] > 63:
            return 0
        at += message[at] + 1
        if at - HEADER_BYTES >= LONGEST_NAME:
            return 0
    at += 5                         # the root label, QTYPE, QCLASS
    return at if at <= size else 0

cdef inline uint8_t lower(uint8_t letter) noexcept nogil:
    return letter | 0x20 if 0x41 <= letter <= 0x5a else letter

cdef inline bint same_question(const uint8_t *one, const uint8_t *other, int end) noexcept nogil:
    """The same first question in both, without regard to the case of its name (RFC 4343). Both have `end` bytes."""
    cdef int at
    if memcmp(one + HEADER_BYTES, other + HEADER_BYTES, end - HEADER_BYTES) == 0:
        return True
    for at in range(HEADER_BYTES, end - 4):
        if lower(one[at]) != lower(other[at]):
            return False
    return memcmp(one + end - 4, other + end - 4, 4) == 0

cdef inline bint answers_question(const uint8_t *answer, int size, const uint8_t *query, int end) noexcept nogil:
    """Whether `answer` is one to `query`, whose first question ends at `end` (0: it had none that can be read).

    A bare header is taken from a server that refuses or fails (FORMERR, SERVFAIL, NOTIMP, REFUSED), and as the answer
    to an UPDATE, whose sections may be left out (RFC 2136 §3.8); from no other.
    """
    cdef int rcode
    if questions_of(answer) == 0:
        rcode = rcode_of(answer)
        return end == 0 or opcode_of(query) == OPCODE_UPDATE or rcode == 1 or rcode == 2 or rcode == 4 or rcode == 5
    return end == 0 or (questions_of(answer) == questions_of(query) and end <= size
                        and same_question(answer, query, end))
