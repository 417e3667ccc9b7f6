"""The clients' side of DNS over TCP for one service: who comes, how much each may ask, when it goes. Runs in a worker.

Client: reading → (limit, bad message, end of its stream: `ending`) → nothing pending → closed, after the client has
taken its answers (`lingering`). Reading stops while too much is pending or unread (`full`), and links are not read
while the client does not take what it asked for: both ends feel it, and memory is bounded.

`Relay` is this and the servers' side; what one does for the other stands as a method that does nothing here.
"""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from balancer.datapath.counts cimport Counts
from balancer.datapath.framing cimport NOT_A_MESSAGE, UNFINISHED, frame_size
from balancer.datapath.pool cimport Link, is_shortage
from balancer.datapath.stream cimport CLIENT, Streams, waiting
from balancer.datapath.syscalls cimport (
    AF_INET, EPOLLERR, EPOLLIN, EPOLLOUT, c_close, ntohl, sockaddr, sockaddr_in, sockaddr_in6, socklen_t,
)
from balancer.datapath.tcp_syscalls cimport EPOLLHUP, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, c_shutdown
from balancer.table.layout cimport (
    TCP_CLOSE_CLIENT, TCP_CLOSE_EVICTED, TCP_CLOSE_FULL, TCP_CLOSE_IDLE, TCP_CLOSE_MESSAGE_READS,
    TCP_CLOSE_MESSAGE_TIME, TCP_CLOSE_NOT_A_MESSAGE, TCP_CLOSE_NO_MEMORY, TCP_CLOSE_PER_CLIENT, TCP_CLOSE_RESET,
    TCP_CLOSE_STOP, TCP_CLOSE_UNREAD, add, store,
)

cdef enum:
    ACCEPTS = 32                        # per wake and listener
    PENDING_MOST = 100                  # queries of one client; more wait in its socket
    PENDING_BYTES_MOST = 65536
    UNREAD_MOST = 65536                 # bytes that a client has not taken: then nothing is read for it
    LINGER_NS = 1_000_000_000
    LINGER_READS = 64
    QUIET_NS = 1_000_000_000            # while we leave: who said nothing for so long has nothing on its way to us


cdef class Clients:
    """Those of one service in this worker."""

    def __cinit__(self, int service, Streams streams, *_others):
        self.service = service
        self.streams = streams
        self.counts = Counts()

    def set_limits(self, timeout_ns, idle_ns, message_ns, lifetime_ns, queries, reads, connections, per_client):
        """The limits of this worker, see docs/tcp.md; 0: no limit for lifetime_ns and queries."""
        self.limits.timeout_ns = timeout_ns
        self.limits.idle_ns = idle_ns
        self.limits.message_ns = message_ns
        self.limits.lifetime_ns = lifetime_ns
        self.limits.queries = queries
        self.limits.reads = reads
        self.limits.connections = connections
        self.limits.per_client = per_client

    # Coming and reading

    cdef bint accept(self, int listener) noexcept nogil:
        """Take new connections; False when the process can have no more descriptors now."""
        cdef int _turn, descriptor
        cdef sockaddr_in6 name
        cdef socklen_t size
        for _turn in range(ACCEPTS):
            size = sizeof(name)
            descriptor = accept4(listener, <sockaddr *>&name, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if descriptor >= 0:
                self._welcome(descriptor, <const uint8_t *>&name, <int>size)
            elif is_shortage(errno):
                if not self._evict():
                    return False
            elif errno == EAGAIN:
                break
        return True

    cdef void _welcome(self, int descriptor, const uint8_t *name, int size) noexcept nogil:
        cdef Client *client
        cdef uint32_t family, key
        cdef uint32_t[4] words
        cdef uint64_t network
        cdef int mine
        add(&self.row.connections, 1)
        if (<const sockaddr *>name).sa_family == AF_INET:
            family = 4
            network = key = ntohl((<const sockaddr_in *>name).sin_addr.s_addr)
        else:
            family = 6
            memcpy(words, &(<const sockaddr_in6 *>name).sin6_addr, 16)
            network = <uint64_t>words[0] << 32 | words[1]
            key = ntohl(words[0] ^ words[1] ^ words[2] ^ words[3])
        if self.open >= self.limits.connections and not self._evict():
            c_close(descriptor)
            add(&self.row.closed[<int>TCP_CLOSE_FULL], 1)
            return
        mine = self.counts.add(family, network)
        if mine < 0 or mine > self.limits.per_client:
            if mine > 0:
                self.counts.remove(family, network)
            c_close(descriptor)
            add(&self.row.closed[<int>TCP_CLOSE_PER_CLIENT if mine > 0 else <int>TCP_CLOSE_NO_MEMORY], 1)
            return
        if self.open > self.limits.connections - self.limits.connections // 8:
            self._evict()               # nearly full: the longest idle makes room
        client = <Client *>calloc(1, sizeof(Client))
        if client == NULL or not self.streams.add(&client.stream, descriptor, CLIENT, EPOLLIN):
            free(client)
            c_close(descriptor)
            self.counts.remove(family, network)
            add(&self.row.closed[<int>TCP_CLOSE_NO_MEMORY], 1)
            return
        client.stream.service = self.service
        client.family = family
        client.key = key
        client.network = network
        client.accepted_ns = client.since_ns = self.streams.now
        memcpy(client.address, name, size if size < 28 else 28)
        self.open += 1
        store(&self.row.open, self.open)
        self._place(client, &self.idle)
        self._read_client(client)       # most often the first query is here already

    cdef void on_client(self, Client *client, uint32_t events) noexcept nogil:
        if events & EPOLLOUT:
            self.streams.touch(&client.stream)
        if client.lingering:
            self._linger(client)
        elif client.stream.watched & EPOLLIN:
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                self._read_client(client)
        elif events & (EPOLLERR | EPOLLHUP):
            self._close(client, TCP_CLOSE_RESET if not client.half_closed else <int>TCP_CLOSE_CLIENT)

    cdef void _read_client(self, Client *client) noexcept nogil:
        cdef int size = 0, got = self.streams.receive(&client.stream, &size)
        if got > 0:
            client.reads += 1
            self._serve(client, size)
        elif got == 0:
            client.half_closed = True
            if client.pending == 0 and waiting(&client.stream) == 0 and not self._married(client):
                self._close(client, TCP_CLOSE_CLIENT)
            else:
                self._end(client, TCP_CLOSE_CLIENT)     # what is pending is still delivered
        elif got != -EAGAIN:
            self._close(client, TCP_CLOSE_RESET)

    cdef void _linger(self, Client *client) noexcept nogil:
        """All is said and shut down: wait for the client to close, so that no reset takes answers from it."""
        cdef int size = 0, got = self.streams.receive(&client.stream, &size)
        client.reads += 1
        if got != -EAGAIN and (got <= 0 or client.reads > LINGER_READS):
            self._close(client, client.ending - 1)

    cdef void _serve(self, Client *client, int size) noexcept nogil:
        """Take the whole messages among `size` bytes in scratch; keep the rest."""
        cdef int at = 0, found = UNFINISHED
        client.full = False
        while not client.ending:
            if (client.pending >= PENDING_MOST or client.pending_bytes >= PENDING_BYTES_MOST
                    or waiting(&client.stream) >= UNREAD_MOST):
                client.full = True
                break
            found = frame_size(self.streams.scratch + at, size - at)
            if found == UNFINISHED:
                break
            if found == NOT_A_MESSAGE:
                self._end(client, TCP_CLOSE_NOT_A_MESSAGE)
                break
            self._query(client, self.streams.scratch + at, found)
            if client.stream.descriptor < 0:
                return
            at += found
            client.reads = 0
        if client.ending:
            at = size
        if not self.streams.keep(&client.stream, at, size):
            self._close(client, TCP_CLOSE_NO_MEMORY)
            return
        if at == size or client.full:
            client.message_ns = 0
        elif at or client.message_ns == 0:
            client.message_ns = self.streams.now
            client.reads = 0 if at else client.reads
        elif client.reads > self.limits.reads:
            self._end(client, TCP_CLOSE_MESSAGE_READS)
        self.streams.touch(&client.stream)

    # Writing

    cdef void flush_client(self, Client *client) noexcept nogil:
        """Send what is staged, then see what the client's state is."""
        cdef int left
        cdef bint done
        cdef uint32_t events
        cdef Link *link
        if self.streams.flush(&client.stream) < 0:
            self._close(client, TCP_CLOSE_RESET)
            return
        if client.lingering:
            return
        left = waiting(&client.stream)
        if (client.full and not client.resuming and left < UNREAD_MOST // 2
                and client.pending <= PENDING_MOST // 2 and client.pending_bytes <= PENDING_BYTES_MOST // 2):
            client.resuming = True
            client.resume_next = self.resuming
            self.resuming = client
        link = client.links
        while link != NULL:
            events = EPOLLIN if left < UNREAD_MOST else 0
            if link.connecting or waiting(&link.stream):
                events |= EPOLLOUT
            if not link.stream.dirty:
                self.streams.watch(&link.stream, events)
            link = link.next
        done = client.pending == 0 and left == 0 and client.links == NULL
        if done and client.ending:
            if client.half_closed or not client.answered:
                self._close(client, client.ending - 1)
                return
            c_shutdown(client.stream.descriptor, SHUT_WR)
            client.lingering = True
            client.reads = 0
            client.since_ns = self.streams.now
            self.streams.watch(&client.stream, EPOLLIN)
            self._place(client, &self.busy)
            return
        events = EPOLLIN if not client.ending and not client.full else 0
        if left:
            events |= EPOLLOUT
        self.streams.watch(&client.stream, events)
        if done and client.stream.rest.size == 0:
            client.since_ns = self.streams.now
            self._place(client, &self.idle)
        elif client.list != &self.busy:
            self._place(client, &self.busy)

    # Lists, and ends

    cdef void _place(self, Client *client, ClientList *list) noexcept nogil:
        """Put the client at the young end of a list, NULL: of none."""
        if client.list != NULL:
            if client.older != NULL:
                client.older.newer = client.newer
            else:
                client.list.oldest = client.newer
            if client.newer != NULL:
                client.newer.older = client.older
            else:
                client.list.newest = client.older
        client.older = client.newer = NULL
        client.list = list
        if list == NULL:
            return
        client.older = list.newest
        if list.newest != NULL:
            list.newest.newer = client
        else:
            list.oldest = client
        list.newest = client

    cdef bint _married(self, Client *client) noexcept nogil:
        cdef Link *link = client.links
        while link != NULL:
            if link.married:
                return True
            link = link.next
        return False

    cdef void _end(self, Client *client, int reason) noexcept nogil:
        """No more queries from this client; it is closed when nothing is pending."""
        if not client.ending:
            client.ending = reason + 1
        client.message_ns = 0
        client.full = False
        self.streams.touch(&client.stream)

    cdef void _close(self, Client *client, int reason) noexcept nogil:
        """Close now; what is pending is lost."""
        if client.stream.descriptor < 0:
            return
        self._drop(client)
        self._place(client, NULL)
        self.counts.remove(client.family, client.network)
        self.streams.shut(&client.stream)
        self.room = True                        # one descriptor more
        self.open -= 1
        store(&self.row.open, self.open)
        add(&self.row.closed[reason], 1)

    cdef bint _evict(self) noexcept nogil:
        """Close the client that has been idle longest; False when none is idle."""
        if self.idle.oldest == NULL:
            return False
        self._close(self.idle.oldest, TCP_CLOSE_EVICTED)
        return True

    # Time

    cdef void sweep_clients(self) noexcept nogil:
        """Close who is idle, too slow or too old."""
        cdef Client *client
        cdef Client *following
        if self.leaving_ns and not self.stopping:
            self._leave()
        while self.idle.oldest != NULL and (
                self.stopping or self.streams.now - self.idle.oldest.since_ns > self.limits.idle_ns):
            self._close(self.idle.oldest, TCP_CLOSE_STOP if self.stopping else TCP_CLOSE_IDLE)
        client = self.busy.oldest
        while client != NULL:
            following = client.newer
            self._sweep_client(client)
            client = following

    cdef void _sweep_client(self, Client *client) noexcept nogil:
        cdef uint64_t now = self.streams.now, moved = client.stream.moved_ns
        cdef bint married = False
        cdef Link *link = client.links
        cdef Link *following
        if client.lingering:
            if now - client.since_ns > LINGER_NS:
                self._close(client, client.ending - 1)
            return
        while link != NULL:
            following = link.next
            married = married or link.married
            moved = max(moved, link.stream.moved_ns)
            if link.connecting and now - link.since_ns > self.limits.timeout_ns // 2:
                self._lose(link)
            link = following
        if self.stopping and not client.ending:
            self._end(client, TCP_CLOSE_STOP)
        if client.message_ns and now - client.message_ns > self.limits.message_ns:
            self._end(client, TCP_CLOSE_MESSAGE_TIME)
        elif waiting(&client.stream):
            if now - client.stream.moved_ns > (<uint64_t>LINGER_NS if self.stopping else self.limits.idle_ns):
                self._close(client, TCP_CLOSE_UNREAD)
        elif married and client.pending == 0:
            if client.ending and now - moved > LINGER_NS:
                self._close(client, client.ending - 1)
            elif now - moved > self.limits.idle_ns:
                self._close(client, TCP_CLOSE_IDLE)

    cdef void _leave(self) noexcept nogil:
        """Let go of who is quiet; of the others, once idle, when the grace is over.

        A query may be on its way on a connection that has just been idle: it would be lost, and the client reset.
        """
        cdef Client *client = self.idle.oldest
        cdef Client *following
        cdef bint over = self.streams.now >= self.leaving_ns
        while client != NULL and (over or self.streams.now - client.since_ns >= QUIET_NS):
            following = client.newer
            self._end(client, TCP_CLOSE_STOP)
            client = following
        self.stopping = over and self.idle.oldest == NULL

    def stop(self, uint64_t grace_ns):
        """No more clients; what is pending is answered, then all is closed: see `_leave`."""
        cdef Client *client
        cdef Client *following
        if grace_ns:
            if self.leaving_ns == 0 or self.streams.now + grace_ns < self.leaving_ns:
                self.leaving_ns = self.streams.now + grace_ns
            return
        for turn in range(2):
            client = self.idle.oldest if turn == 0 else self.busy.oldest
            while client != NULL:
                following = client.newer
                if not client.lingering and not client.ending and not client.full:
                    self._read_client(client)           # what the kernel has already is still taken
                client = following
        self.stopping = True

    def close_clients(self):
        """Close every connection now."""
        while self.idle.oldest != NULL:
            self._close(self.idle.oldest, TCP_CLOSE_STOP)
        while self.busy.oldest != NULL:
            self._close(self.busy.oldest, TCP_CLOSE_STOP)

    @property
    def connections(self):
        return self.open

    # What the servers' side does for it: see Relay

    cdef void _query(self, Client *client, uint8_t *frame, int size) noexcept nogil:
        pass

    cdef void _drop(self, Client *client) noexcept nogil:
        pass

    cdef void _lose(self, Link *link) noexcept nogil:
        pass
