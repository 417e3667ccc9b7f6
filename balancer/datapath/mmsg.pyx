"""Batches of datagrams. Runs in a worker; knows sockets and buffers, and nothing of DNS.

All memory is claimed once; buffers are mapped, so only pages that are written count. A message lies in its buffer
until `reset`; whoever borrows a pointer drops it before.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from balancer.datapath.syscalls cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MSG_DONTWAIT, PROT_READ, PROT_WRITE, iovec, mmap, mmsghdr,
    munmap, recvmmsg, sockaddr_in6,
)
from balancer.table.layout cimport check


cdef class Inbox:
    """Room for `capacity` datagrams of up to 65,535 bytes; `named` asks for sender addresses and control data."""

    def __cinit__(self, int capacity, bint named):
        cdef int index
        self.capacity = capacity
        self.named = named
        self.messages = <mmsghdr *>calloc(capacity, sizeof(mmsghdr))
        self.vectors = <iovec *>calloc(capacity, sizeof(iovec))
        self.names = <sockaddr_in6 *>calloc(capacity, sizeof(sockaddr_in6))
        self.control = <uint8_t *>calloc(capacity, CONTROL_BYTES)
        if not (self.messages and self.vectors and self.names and self.control):
            raise MemoryError(f"inbox of {capacity} messages")
        self.buffers = <uint8_t *>mmap(NULL, <size_t>capacity * BUFFER_STRIDE, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void *>self.buffers == MAP_FAILED:
            self.buffers = NULL
            raise MemoryError(f"inbox of {capacity} buffers")
        for index in range(capacity):
            self.vectors[index].iov_base = self.buffers + <size_t>index * BUFFER_STRIDE
            self.vectors[index].iov_len = LONGEST_MESSAGE
            self.messages[index].msg_hdr.msg_iov = &self.vectors[index]
            self.messages[index].msg_hdr.msg_iovlen = 1
            if named:
                self.messages[index].msg_hdr.msg_name = &self.names[index]
                self.messages[index].msg_hdr.msg_control = self.control + index * CONTROL_BYTES
        self.used = capacity
        self.reset()

    def __dealloc__(self):
        if self.buffers != NULL:
            munmap(self.buffers, <size_t>self.capacity * BUFFER_STRIDE)
        free(self.messages)
        free(self.vectors)
        free(self.names)
        free(self.control)

    cdef void reset(self) noexcept nogil:
        """Empty the box. The kernel wrote lengths and flags of what it filled, so those are asked for anew."""
        cdef int index
        for index in range(self.used):
            self.messages[index].msg_hdr.msg_flags = 0
            if self.named:
                self.messages[index].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
                self.messages[index].msg_hdr.msg_controllen = CONTROL_BYTES
        self.used = 0

    cdef int receive(self, int descriptor, int limit) noexcept nogil:
        """Append up to `limit` datagrams; their number, 0 for a full box or an empty socket, or -errno."""
        cdef int room = self.capacity - self.used, got
        if room > limit:
            room = limit
        if room == 0:
            return 0
        got = recvmmsg(descriptor, self.messages + self.used, room, MSG_DONTWAIT, NULL)
        if got < 0:
            return -errno
        self.used += got
        return got

    cdef uint8_t *bytes(self, int index) noexcept nogil:
        check(0 <= index < self.used)
        return self.buffers + <size_t>index * BUFFER_STRIDE


cdef class Outbox:
    """Datagrams to send, staged in any order and taken out in groups of the same key (one socket each).

    Bytes are borrowed until the group is sent; addresses and control data are copied.
    """

    def __cinit__(self, int capacity):
        cdef int index
        self.capacity = capacity
        self.staged = <mmsghdr *>calloc(capacity, sizeof(mmsghdr))
        self.vectors = <iovec *>calloc(capacity, sizeof(iovec))
        self.names = <sockaddr_in6 *>calloc(capacity, sizeof(sockaddr_in6))
        self.control = <uint8_t *>calloc(capacity, CONTROL_BYTES)
        self.keys = <int *>calloc(capacity, sizeof(int))
        self.staged_tags = <int *>calloc(capacity, sizeof(int))
        self.group = <mmsghdr *>calloc(capacity, sizeof(mmsghdr))
        self.group_tags = <int *>calloc(capacity, sizeof(int))
        if not (self.staged and self.vectors and self.names and self.control and self.keys and self.staged_tags
                and self.group and self.group_tags):
            raise MemoryError(f"outbox of {capacity} messages")
        for index in range(capacity):
            self.staged[index].msg_hdr.msg_iov = &self.vectors[index]
            self.staged[index].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.staged)
        free(self.vectors)
        free(self.names)
        free(self.control)
        free(self.keys)
        free(self.staged_tags)
        free(self.group)
        free(self.group_tags)

    cdef int put(self, int key, int tag, uint8_t *bytes, int size) noexcept nogil:
        """Stage a datagram for `key` (a socket); `tag` comes back with it. Its index, or -1 when the box is full."""
        cdef int index = self.count
        if index == self.capacity:
            return -1
        self.vectors[index].iov_base = bytes
        self.vectors[index].iov_len = size
        self.staged[index].msg_hdr.msg_name = NULL
        self.staged[index].msg_hdr.msg_namelen = 0
        self.staged[index].msg_hdr.msg_control = NULL
        self.staged[index].msg_hdr.msg_controllen = 0
        self.keys[index] = key
        self.staged_tags[index] = tag
        self.mixed = self.mixed or (index > 0 and key != self.keys[0])
        self.count += 1
        return index

    cdef void address(self, int index, const uint8_t *name, int size) noexcept nogil:
        memcpy(&self.names[index], name, size)
        self.staged[index].msg_hdr.msg_name = &self.names[index]
        self.staged[index].msg_hdr.msg_namelen = size

    cdef int take(self, int *key) noexcept nogil:
        """The next group: its size, with `ready` and `tags` set; 0 when nothing is left, and the box is empty then."""
        cdef int index, size = 0
        if self.taken == self.count:
            self.count = self.taken = 0
            self.mixed = False
            return 0
        if not self.mixed:
            key[0] = self.keys[0]
            self.ready = self.staged
            self.tags = self.staged_tags
            self.taken = self.count
            return self.count
        index = 0
        while self.keys[index] == -1:
            index += 1
        key[0] = self.keys[index]
        for index in range(index, self.count):
            if self.keys[index] == key[0]:
                self.group[size] = self.staged[index]
                self.group_tags[size] = self.staged_tags[index]
                self.keys[index] = -1
                size += 1
        self.taken += size
        self.ready = self.group
        self.tags = self.group_tags
        return size
