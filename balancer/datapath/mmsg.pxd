"""Batches of datagrams: recvmmsg into an `Inbox`, sendmmsg from an `Outbox`."""

from libc.stdint cimport uint8_t, uint32_t

from balancer.datapath.syscalls cimport iovec, mmsghdr, sockaddr_in6

cdef enum:
    LONGEST_MESSAGE = 65535
    BUFFER_STRIDE = 65600               # 1025 lines: an odd number, so buffers do not share cache sets
    CONTROL_BYTES = 64

cdef class Inbox:
    cdef mmsghdr *messages
    cdef iovec *vectors
    cdef sockaddr_in6 *names
    cdef uint8_t *control
    cdef uint8_t *buffers
    cdef int capacity
    cdef int used
    cdef bint named

    cdef int receive(self, int descriptor, int limit) noexcept nogil
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
