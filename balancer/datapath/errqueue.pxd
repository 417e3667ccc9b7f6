"""Reading a socket's error queue (ip(7), IP_RECVERR): which datagram came back, and why."""

from libc.stdint cimport uint8_t

cdef enum:
    QUOTED_BYTES = 576                  # Linux quotes at most that much of the datagram (RFC 1812 §4.3.2.3)

cdef struct Returned:
    int size                            # quoted bytes of the datagram's payload
    int error                           # errno that the message stands for
    bint remote                         # an ICMP message, not our own kernel
    uint8_t bytes[QUOTED_BYTES]

cdef bint read_error(int descriptor, Returned *returned) noexcept nogil
