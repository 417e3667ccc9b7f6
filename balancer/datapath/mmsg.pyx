"""Batches of datagrams. Runs in a worker; knows sockets and buffers, and nothing of DNS.

All memory is claimed once; buffers are mapped, so only pages that are written count. A message lies in its buffer
until `reset`; whoever borrows a pointer drops it before.

An inbox may lie in shared memory of the supervisor's: then a datagram that the kernel has handed out is never in
private memory alone, and the successor of a worker that died finds those it had not dealt with (`recover`).
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from balancer.datapath.syscalls cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MSG_DONTWAIT, PROT_READ, PROT_WRITE, iovec, mmap, mmsghdr,
    munmap, recvmmsg, sockaddr_in6,
)
from balancer.table.layout cimport check


cdef size_t inbox_bytes(int capacity) noexcept nogil:
    """Memory of an inbox: its state, what the kernel fills in for each message, the buffers."""
    return sizeof(InboxState) + <size_t>capacity * (
        sizeof(mmsghdr) + sizeof(sockaddr_in6) + CONTROL_BYTES + BUFFER_STRIDE)


cdef class Inbox:
    """Room for `capacity` datagrams of up to 65,535 bytes; `named` asks for sender addresses and control data.

    region, offset: shared memory to lie in (`inbox_bytes` of it, aligned to 8).
    """

    def __cinit__(self, int capacity, bint named, Region region=None, size_t offset=0):
        cdef int index
        self.capacity = capacity
        self.named = named
        self.vectors = <iovec *>calloc(capacity, sizeof(iovec))
        if self.vectors == NULL:
            raise MemoryError(f"inbox of {capacity} messages")
        if region is not None:
            self.region = region
            self.base = region.base + offset
        else:
            self.base = <uint8_t *>mmap(NULL, inbox_bytes(capacity), PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            if <void *>self.base == MAP_FAILED:
                self.base = NULL
                raise MemoryError(f"inbox of {capacity} messages")
        self.state = <InboxState *>self.base
        self.messages = <mmsghdr *>(self.base + sizeof(InboxState))
        self.names = <sockaddr_in6 *>(self.messages + capacity)
        self.control = <uint8_t *>(self.names + capacity)
        self.buffers = self.control + capacity * CONTROL_BYTES
        for index in range(capacity):
            self.vectors[index].iov_base = self.buffers + <size_t>index * BUFFER_STRIDE
            self.vectors[index].iov_len = LONGEST_MESSAGE
            self.messages[index].msg_hdr.msg_iov = &self.vectors[index]
            self.messages[index].msg_hdr.msg_iovlen = 1
            if named:
                self.messages[index].msg_hdr.msg_name = &self.names[index]
                self.messages[index].msg_hdr.msg_control = self.control + index * CONTROL_BYTES
        if region is None:
            self.used = capacity
            self.reset()

    def __dealloc__(self):
        if self.region is None and self.base != NULL:
            munmap(self.base, inbox_bytes(self.capacity))
        free(self.vectors)

    cdef void reset(self) noexcept nogil:
        """Empty the box. The kernel wrote lengths and flags of what it filled, so those are asked for anew."""
        cdef int index
        for index in range(self.used):
            self.messages[index].msg_len = 0
            self.messages[index].msg_hdr.msg_flags = 0
            if self.named:
                self.messages[index].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
                self.messages[index].msg_hdr.msg_controllen = CONTROL_BYTES
        self.used = 0
        self.state.taken = self.state.counted = 0

    cdef int recover(self) noexcept nogil:
        """Find what a predecessor had received and not taken: the box is filled up to the last, `state.taken` is the
        first. The kernel writes each message's length when it has handed it out, so a death within recvmmsg loses
        none; a message of 0 bytes is no query."""
        self.used = 0
        while self.used < self.capacity and self.messages[self.used].msg_len > 0:
            self.used += 1
        if self.state.taken > <uint64_t>self.used:
            self.state.taken = self.used
        return self.used - <int>self.state.taken

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
