"""TCP connections of one worker: an epoll set, read, write, close. Knows bytes and events, no DNS.

A `Stream` is the first member of a larger struct that somebody else claims with calloc. The set closes it (`shut`) at
once and frees it at the end of the wake (`bury`): until then every pointer to it may be looked at, and an event
for it that lies in the present batch is told by its generation. What is to be sent is staged and goes out in one
call per connection at the end of the wake. A connection that is between two messages owns no buffer.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, ENOTCONN, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from balancer.datapath.framing cimport drop_rest, keep_rest, load_rest
from balancer.datapath.syscalls cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, MSG_DONTWAIT, c_close, epoll_create1, epoll_ctl, epoll_event,
)
from balancer.datapath.tcp_syscalls cimport MSG_NOSIGNAL, c_recv, c_send

cdef enum:
    FIRST_ROOM = 1000                   # of a buffer: small enough for malloc to have it at hand
    HELD_MOST = 256 << 20               # bytes in rests and buffers of one worker


cdef class Streams:
    """All connections; numbers are reused, generations tell them apart."""

    def __cinit__(self):
        self.epoll = -1
        self.held_most = HELD_MOST
        self.scratch = <uint8_t *>malloc(SCRATCH_BYTES)
        if self.scratch == NULL:
            raise MemoryError("read buffer")
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError("epoll_create1 failed")

    def __dealloc__(self):
        cdef uint32_t number
        for number in range(self.capacity):
            if self.table[number] != NULL:
                self.shut(self.table[number])
        self.bury()
        free(self.scratch)
        free(self.table)
        free(self.generations)
        free(self.free)
        if self.epoll >= 0:
            c_close(self.epoll)

    cdef bint _grow(self) noexcept nogil:
        cdef uint32_t room = self.capacity * 2 if self.capacity else 256, number
        cdef Stream **table = <Stream **>realloc(self.table, room * sizeof(Stream *))
        cdef uint32_t *generations
        cdef uint32_t *numbers
        if table == NULL:
            return False
        self.table = table
        generations = <uint32_t *>realloc(self.generations, room * sizeof(uint32_t))
        if generations == NULL:
            return False
        self.generations = generations
        numbers = <uint32_t *>realloc(self.free, room * sizeof(uint32_t))
        if numbers == NULL:
            return False
        self.free = numbers
        for number in range(self.capacity, room):
            self.table[number] = NULL
            self.generations[number] = 0
            self.free[self.free_count] = number
            self.free_count += 1
        self.capacity = room
        return True

    cdef bint add(self, Stream *stream, int descriptor, int kind, uint32_t events) noexcept nogil:
        """Watch an open descriptor, which the stream owns from here on (a listener's stays the caller's)."""
        cdef epoll_event event
        if self.free_count == 0 and not self._grow():
            return False
        stream.number = self.free[self.free_count - 1]
        stream.generation = self.generations[stream.number]
        event.events = events
        event.data.u64 = <uint64_t>stream.generation << 32 | stream.number
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, descriptor, &event) < 0:
            return False
        self.free_count -= 1
        self.table[stream.number] = stream
        self.count += 1
        stream.descriptor = descriptor
        stream.kind = kind
        stream.watched = events
        stream.moved_ns = self.now
        return True

    cdef Stream *find(self, uint64_t data) noexcept nogil:
        """Whose event this is; NULL when it was closed earlier in the same wake."""
        cdef Stream *stream = self.table[<uint32_t>data]
        return stream if stream != NULL and stream.generation == data >> 32 else NULL

    cdef void watch(self, Stream *stream, uint32_t events) noexcept nogil:
        cdef epoll_event event
        if stream.watched == events or stream.descriptor < 0:
            return
        event.events = events
        event.data.u64 = <uint64_t>stream.generation << 32 | stream.number
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, stream.descriptor, &event)
        stream.watched = events

    cdef int receive(self, Stream *stream, int *size) noexcept nogil:
        """Read once into `scratch`, behind what was kept; `size` is both together.

        Returns the bytes received, 0 at the end of the stream, or -errno; -EAGAIN: nothing now.
        """
        cdef int had = load_rest(&stream.rest, self.scratch)
        cdef int got = <int>c_recv(stream.descriptor, self.scratch + had, READ_BYTES, MSG_DONTWAIT)
        size[0] = had
        if got < 0:
            return -EAGAIN if errno == EINTR else -errno
        if got:
            stream.moved_ns = self.now
        size[0] = had + got
        return got

    cdef bint keep(self, Stream *stream, int at, int size) noexcept nogil:
        """Keep what lies in `scratch` from `at` on, and nothing else. False: no memory, nothing is kept."""
        self.held += size - at - stream.rest.size
        if self.held > self.held_most and size > at:
            self.held -= size - at
            drop_rest(&stream.rest)
            return False
        if keep_rest(&stream.rest, self.scratch + at, size - at):
            return True
        self.held -= size - at
        return False

    cdef bint stage(self, Stream *stream, const uint8_t *bytes, int size) noexcept nogil:
        """Have `bytes` sent by the next `flush`. False: no memory, nothing is staged."""
        cdef Buffer *out = &stream.out
        cdef int room = out.room if out.room else FIRST_ROOM
        cdef uint8_t *grown
        if out.end + size > out.room:
            if out.first and out.bytes != NULL:
                memmove(out.bytes, out.bytes + out.first, out.end - out.first)
                out.end -= out.first
                out.first = 0
            while out.end + size > room:
                room *= 2
            if room > out.room:
                if self.held + room - out.room > self.held_most:
                    return False
                grown = <uint8_t *>realloc(out.bytes, room)
                if grown == NULL:
                    return False
                self.held += room - out.room
                out.bytes = grown
                out.room = room
        memcpy(out.bytes + out.end, bytes, size)
        out.end += size
        self.touch(stream)
        return True

    cdef void touch(self, Stream *stream) noexcept nogil:
        """Have the stream looked at before the wake ends."""
        if not stream.dirty and stream.descriptor >= 0:
            stream.dirty = True
            stream.next_dirty = self.dirty
            self.dirty = stream

    cdef int flush(self, Stream *stream) noexcept nogil:
        """Send what is staged: ALL_SENT, SOME_WAITS, or -errno when the connection is broken."""
        cdef Buffer *out = &stream.out
        cdef int sent
        while out.first < out.end:
            sent = <int>c_send(stream.descriptor, out.bytes + out.first, out.end - out.first,
                               MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                # ENOTCONN: still connecting, told apart by whoever connects.
                if errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM or errno == ENOTCONN:
                    return SOME_WAITS
                return -errno
            out.first += sent
            stream.moved_ns = self.now
        out.first = out.end = 0
        if out.bytes != NULL:
            self.held -= out.room
            free(out.bytes)
            out.bytes = NULL
            out.room = 0
        return ALL_SENT

    cdef void shut(self, Stream *stream) noexcept nogil:
        """Close it now. Its memory lives until `bury`; a listener's descriptor stays open, it is the caller's."""
        if stream.descriptor < 0:
            return
        if stream.kind == LISTENER:
            self.watch(stream, 0)
        else:
            c_close(stream.descriptor)
        self.held -= stream.rest.size + stream.out.room
        drop_rest(&stream.rest)
        free(stream.out.bytes)
        stream.out.bytes = NULL
        stream.out.first = stream.out.end = stream.out.room = 0
        stream.descriptor = -1
        self.table[stream.number] = NULL
        self.generations[stream.number] += 1
        self.free[self.free_count] = stream.number
        self.free_count += 1
        self.count -= 1
        stream.next_closed = self.closed
        self.closed = stream

    cdef void bury(self) noexcept nogil:
        """Free what was closed. Nobody may hold a pointer to it any more: the end of the wake."""
        cdef Stream *stream = self.closed
        cdef Stream *following
        self.closed = NULL
        while stream != NULL:
            following = stream.next_closed
            if stream.dirty:            # still on the list of those to be flushed: the next time
                stream.next_closed = self.closed
                self.closed = stream
            else:
                free(stream)
            stream = following
