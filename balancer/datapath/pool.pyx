"""Warm connections toward the servers of one service. Runs in a worker; knows no clients and no queries.

A connection is idle here or held by one client (`take`, `give`); the newest idle one is taken first, so the number
of warm ones follows the load. An idle connection that says anything is closed: nobody asked. One that its server
closes is no failure. Per server at most `limit` are open, held and idle together.

A server that fails (it refuses, breaks a connection, or is silent while others answer) is passed over: for AVOIDED_NS
altogether, then it gets a query each PROBE_NS until it has answered one. All workers learn it from the table. If that
took as long as `SILENCE` it has come back (`returned_ns`), and whoever weighs the servers ramps it up.
"""

import socket as _socket

from libc.errno cimport EAGAIN, EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from balancer.datapath.retry cimport SILENCE, Trust, on_answer, on_sent
from balancer.datapath.stream cimport LINK
from balancer.datapath.syscalls cimport EPOLLIN, c_close, c_connect, sockaddr, sockaddr_in, sockaddr_in6
from balancer.datapath.tcp_syscalls cimport (
    IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, TCP_NODELAY, c_bind, c_socket, setsockopt,
)
from balancer.table.layout cimport IGNORE_UNKNOWN_ID, TcpRowServer, add, load, store

cdef enum:
    IDLE_NS = 20_000_000_000            # below BIND's own 30 s, so that we are the one who closes
    AVOIDED_NS = 1_000_000_000
    PROBE_NS = 100_000_000


cdef int _write_address(sockaddr_in6 *target, host, int port) except -1:
    """Fill in a sockaddr_in or sockaddr_in6; its size."""
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    cdef bytes raw = _socket.inet_pton(family, host)
    memset(target, 0, sizeof(sockaddr_in6))
    target.sin6_family = family
    target.sin6_port = _socket.htons(port)
    if family == _socket.AF_INET:
        memcpy(&(<sockaddr_in *>target).sin_addr, <const uint8_t *>raw, 4)
        return sizeof(sockaddr_in)
    memcpy(&target.sin6_addr, <const uint8_t *>raw, 16)
    return sizeof(sockaddr_in6)


cdef bint is_shortage(int number) noexcept nogil:
    """An error of ours, which a connection closed elsewhere may mend; it says nothing about a server."""
    return number == EMFILE or number == ENFILE or number == ENOBUFS or number == ENOMEM


cdef class Pool:
    """`rows` belongs to the worker's row, which outlives this object."""

    def __cinit__(self, Streams streams):
        self.streams = streams

    def set_server(self, int slot, host, int port, source, int limit):
        """Where the server in `slot` is, from which address it is asked (None: any), how many connections it takes."""
        cdef Target *target = &self.targets[slot]
        if not target.present:
            target.avoided_until_ns = target.returned_ns = 0        # that was another server
            target.failing = False
            memset(&target.trust, 0, sizeof(Trust))
        target.address_size = _write_address(&target.address, host, port)
        target.source_size = _write_address(&target.source, source, 0) if source is not None else 0
        target.limit = limit
        target.present = True
        self.used = max(self.used, slot + 1)

    def retire(self, int slot):
        """The server is removed: nothing goes back to the pool, what is idle is closed."""
        cdef Target *target = &self.targets[slot]
        target.present = False
        while target.oldest != NULL:
            self.close_link(target.oldest)
        self.streams.bury()

    cdef bint full(self, int slot) noexcept nogil:
        """No connection can be had now."""
        cdef Target *target = &self.targets[slot]
        return target.newest == NULL and target.open >= target.limit

    cdef Link *take(self, int slot, bint fresh) noexcept nogil:
        """A connection to the server in `slot`, `fresh`: a new one; NULL when it cannot be had now."""
        cdef Target *target = &self.targets[slot]
        cdef Link *link = target.newest
        self.starved = False
        if link != NULL and fresh and target.open >= target.limit:
            self.close_link(target.oldest)
        if link == NULL or fresh:
            return self._connect(slot) if target.open < target.limit else NULL
        self._unlist(link)
        link.reused = True
        link.answered_ns = 0
        return link

    cdef Link *_connect(self, int slot) noexcept nogil:
        cdef Target *target = &self.targets[slot]
        cdef TcpRowServer *row = &self.rows[slot]
        cdef Link *link
        cdef int on = 1, descriptor
        if not target.present:
            return NULL
        link = <Link *>calloc(1, sizeof(Link))
        if link == NULL:
            return NULL
        descriptor = c_socket(target.address.sin6_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if descriptor < 0:
            self.starved = is_shortage(errno)
            free(link)
            return NULL
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        if ((target.source_size
                and c_bind(descriptor, <const sockaddr *>&target.source, target.source_size) < 0)
                or (c_connect(descriptor, <const sockaddr *>&target.address, target.address_size) < 0
                    and errno != EINPROGRESS)
                or not self.streams.add(&link.stream, descriptor, LINK, EPOLLIN)):
            c_close(descriptor)
            free(link)
            add(&row.failures, 1)
            self.avoid(slot)
            return NULL
        link.slot = slot
        link.connecting = True
        link.since_ns = self.streams.now
        target.open += 1
        add(&row.connections, 1)
        store(&row.open, target.open)
        return link

    cdef void give(self, Link *link) noexcept nogil:
        """Back into the pool: nothing outstanding, nothing unread, nobody's any more."""
        cdef Target *target = &self.targets[link.slot]
        if not target.present or target.open > target.limit:
            self.close_link(link)
            return
        link.client = NULL
        link.next = NULL
        link.since_ns = self.streams.now
        link.newer = NULL
        link.older = target.newest
        if target.newest != NULL:
            target.newest.newer = link
        else:
            target.oldest = link
        target.newest = link
        add(&self.rows[link.slot].idle, 1)

    cdef void _unlist(self, Link *link) noexcept nogil:
        """Out of the idle ones."""
        cdef Target *target = &self.targets[link.slot]
        if link.older != NULL:
            link.older.newer = link.newer
        else:
            target.oldest = link.newer
        if link.newer != NULL:
            link.newer.older = link.older
        else:
            target.newest = link.older
        link.older = link.newer = NULL
        store(&self.rows[link.slot].idle, load(&self.rows[link.slot].idle) - 1)

    cdef void close_link(self, Link *link) noexcept nogil:
        """Close a connection, idle or held; whoever holds it has let go of it already."""
        cdef Target *target = &self.targets[link.slot]
        if link.stream.descriptor < 0:
            return
        if link.older != NULL or link.newer != NULL or target.newest == link:
            self._unlist(link)
        self.streams.shut(&link.stream)
        target.open -= 1
        store(&self.rows[link.slot].open, target.open)

    cdef void avoid(self, int slot) noexcept nogil:
        """It has failed."""
        self._fail(slot, self.streams.now, self.streams.now + AVOIDED_NS)
        store(&self.rows[slot].failed_ns, self.streams.now)

    cdef void _fail(self, int slot, uint64_t since, uint64_t until) noexcept nogil:
        cdef Target *target = &self.targets[slot]
        if not target.failing:
            target.failing = True
            target.failing_since_ns = since
        target.avoided_until_ns = max(target.avoided_until_ns, until)

    cdef void _trust(self, int slot) noexcept nogil:
        """It has answered after a failure. A connection that broke is not a server that was away."""
        cdef Target *target = &self.targets[slot]
        target.failing = False
        target.avoided_until_ns = 0
        if self.streams.now >= target.failing_since_ns + <uint64_t>SILENCE:
            target.returned_ns = self.streams.now

    cdef bint avoided(self, int slot) noexcept nogil:
        """Whether others come first."""
        return self.streams.now < self.targets[slot].avoided_until_ns

    cdef void asked(self, int slot) noexcept nogil:
        """A query goes to it."""
        cdef Target *target = &self.targets[slot]
        on_sent(&target.trust, self.streams.now)
        if target.failing and not self.avoided(slot):
            target.avoided_until_ns = self.streams.now + PROBE_NS

    cdef bint heard(self, int slot) noexcept nogil:
        """It has answered, whatever it was; True when it had failed."""
        cdef bint failed = self.targets[slot].failing
        on_answer(&self.targets[slot].trust, self.streams.now)
        store(&self.rows[slot].answered_ns, self.streams.now)
        if failed:
            self._trust(slot)
        return failed

    cdef bint learn(self, int slot, uint64_t failed_ns, uint64_t answered_ns) noexcept nogil:
        """When it failed in another worker, and when it last answered in any; True when it is back by that."""
        cdef Target *target = &self.targets[slot]
        if failed_ns > answered_ns and failed_ns + AVOIDED_NS > self.streams.now:
            self._fail(slot, failed_ns, failed_ns + AVOIDED_NS)
        elif target.failing and answered_ns > max(failed_ns, load(&self.rows[slot].failed_ns)):
            self._trust(slot)
            return True
        return False

    cdef void on_idle_event(self, Link *link) noexcept nogil:
        """An idle connection became readable: its server closed it, or speaks unasked. Closed either way."""
        cdef int size = 0, got = self.streams.receive(&link.stream, &size)
        if got == -EAGAIN:
            return
        if got > 0:
            add(&self.rows[link.slot].ignored[<int>IGNORE_UNKNOWN_ID], 1)
        self.close_link(link)

    cdef void expire(self, bint everything) noexcept nogil:
        """Close what has been idle for long."""
        cdef int slot
        cdef Link *link
        for slot in range(self.used):
            link = self.targets[slot].oldest
            while link != NULL and (everything or self.streams.now - link.since_ns > <uint64_t>IDLE_NS):
                self.close_link(link)
                link = self.targets[slot].oldest
