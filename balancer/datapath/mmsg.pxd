"""Batches of datagrams: recvmmsg into an `Inbox`, sendmmsg from an `Outbox`."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from balancer.datapath.syscalls cimport iovec, mmsghdr, sockaddr_in6
from balancer.table.table cimport Region

cdef enum:
    LONGEST_MESSAGE = 65535
    BUFFER_STRIDE = 65600               # 1025 lines: an odd number, so buffers do not share cache sets
    CONTROL_BYTES = 64

cdef struct InboxState:         # writer: the worker
    uint64_t source             # where the batch comes from, for the reader's own use
    uint64_t taken              # messages 0..taken-1 of the batch are done with
    uint64_t counted            # messages 0..counted-1 are counted as received: a successor must not do so again
    uint64_t padding[5]

cdef size_t inbox_bytes(int capacity) noexcept nogil

cdef class Inbox:
    cdef Region region          # keeps shared memory mapped; None: the memory is private
    cdef uint8_t *base
    cdef InboxState *state
    cdef mmsghdr *messages
    cdef iovec *vectors
    cdef sockaddr_in6 *names
    cdef uint8_t *control
    cdef uint8_t *buffers
    cdef int capacity
    cdef int used
    cdef bint named

    cdef int receive(self, int descriptor, int limit) noexcept nogil
    cdef int recover(self) noexcept nogil
    cdef uint8_t *bytes(self, int index) noexcept nogil
    cdef void reset(self) noexcept nogil

cdef class Outbox:
    cdef mmsghdr *staged
    cdef iovec *vectors
    cdef sockaddr_in6 *names
    cdef uint8_t *control
    cdef int *keys
    cdef int *staged_tags
    cdef mmsghdr *group
    cdef int *group_tags
    cdef mmsghdr *ready                 # the group that `take` found
    cdef int *tags
    cdef int capacity
    cdef int count
    cdef int taken
    cdef bint mixed

    cdef int put(self, int key, int tag, uint8_t *bytes, int size) noexcept nogil
    cdef void address(self, int index, const uint8_t *name, int size) noexcept nogil
    cdef int take(self, int *key) noexcept nogil
