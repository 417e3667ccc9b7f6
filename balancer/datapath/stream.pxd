"""One TCP connection and the set of all of them: see stream.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.framing cimport LONGEST_FRAME, Rest

cdef enum:
    READ_BYTES = 16384                  # per read: a transfer gives everybody else a turn after each
    SCRATCH_BYTES = LONGEST_FRAME + 2 * READ_BYTES
    ALL_SENT = 0
    SOME_WAITS = 1

cdef enum:                              # Stream.kind
    LISTENER = 0
    CLIENT = 1
    LINK = 2                            # toward a server

cdef struct Buffer:                     # bytes that wait to be sent; a zeroed one is empty
    uint8_t *bytes                      # owned; NULL while empty
    int first
    int end
    int room

cdef struct Stream:                     # first member of whatever is read from and written to
    int descriptor                      # -1: closed, freed at the end of the wake
    uint32_t number                     # in the table of all streams
    uint32_t generation                 # tells this holder of the number from the one before
    uint32_t watched                    # epoll events asked for
    uint8_t kind
    uint16_t service
    bint dirty                          # on the list of those to be flushed
    Rest rest
    Buffer out
    uint64_t moved_ns                   # when bytes were last received or taken by the kernel
    Stream *next_dirty
    Stream *next_closed

cdef class Streams:
    cdef readonly int epoll
    cdef Stream **table
    cdef uint32_t *generations
    cdef uint32_t *free
    cdef uint32_t capacity
    cdef uint32_t free_count
    cdef readonly uint32_t count        # open ones
    cdef Stream *dirty
    cdef Stream *closed
    cdef uint8_t *scratch               # the read in hand: what was kept, then what came
    cdef uint64_t now                   # CLOCK_MONOTONIC of the present wake
    cdef readonly long held             # bytes in rests, buffers and pending queries
    cdef long held_most

    cdef bint _grow(self) noexcept nogil
    cdef bint add(self, Stream *stream, int descriptor, int kind, uint32_t events) noexcept nogil
    cdef Stream *find(self, uint64_t data) noexcept nogil
    cdef void watch(self, Stream *stream, uint32_t events) noexcept nogil
    cdef int receive(self, Stream *stream, int *size) noexcept nogil
    cdef bint keep(self, Stream *stream, int at, int size) noexcept nogil
    cdef bint stage(self, Stream *stream, const uint8_t *bytes, int size) noexcept nogil
    cdef void touch(self, Stream *stream) noexcept nogil
    cdef int flush(self, Stream *stream) noexcept nogil
    cdef void shut(self, Stream *stream) noexcept nogil
    cdef void bury(self) noexcept nogil

cdef inline int waiting(const Stream *stream) noexcept nogil:
    """Bytes that wait to be sent."""
    return stream.out.end - stream.out.first
