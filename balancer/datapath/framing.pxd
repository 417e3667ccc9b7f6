"""Messages in a stream of bytes: see framing.pyx."""

from libc.stdint cimport uint8_t

from balancer.datapath.wire cimport HEADER_BYTES, read16

cdef enum:
    PREFIX_BYTES = 2                    # RFC 1035 §4.2.2: two bytes of length before each message
    LONGEST_FRAME = PREFIX_BYTES + 65535
    UNFINISHED = 0
    NOT_A_MESSAGE = -1

cdef struct Rest:                       # bytes that are no whole message yet; a zeroed one is empty
    uint8_t *bytes                      # owned; NULL while empty
    int size

cdef inline int frame_size(const uint8_t *bytes, int size) noexcept nogil:
    """Size of the first message in `bytes` with its prefix; UNFINISHED, or NOT_A_MESSAGE: shorter than a header.

    Never longer than LONGEST_FRAME, so whoever keeps what is unfinished keeps a bounded number of bytes.
    """
    cdef int announced
    if size < PREFIX_BYTES:
        return UNFINISHED
    announced = read16(bytes)
    if announced < HEADER_BYTES:
        return NOT_A_MESSAGE
    return PREFIX_BYTES + announced if size >= PREFIX_BYTES + announced else UNFINISHED

cdef int load_rest(const Rest *rest, uint8_t *target) noexcept nogil
cdef bint keep_rest(Rest *rest, const uint8_t *bytes, int size) noexcept nogil
cdef void drop_rest(Rest *rest) noexcept nogil
