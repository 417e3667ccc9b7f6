"""DNS over TCP for one service (RFC 7766): clients' queries to servers, answers back, nobody's to anybody else.

A client holds a connection toward a server (a link) only while it has queries outstanding on it; ids are not
rewritten, since nobody else's queries are on it. An answer belongs to the oldest query of that link with its id and
its question, so ids that a client uses twice do no harm. Anything unasked is not passed on, and such a link never
serves another client. A link that carried AXFR or IXFR stays with its client until either closes, for nobody can
tell reliably where a transfer ends.

A query is sent to at most two servers. If a link fails, or is silent for `timeout`, its unanswered queries become
`orphans` and are dispatched anew; if it is silent for `retry_after`, as over UDP, they are sent to another server too
(`first` and `link` are then both awaited), and the first answer wins. When both have failed the client is told SERVFAIL
and its connection goes on. UPDATE is never sent twice, a transfer only when its link fails. Nothing
recurses: what is due lies in lists that `settle` empties, and each query is sent a bounded number of times.

How clients come, are read, and go stands in clients.pyx.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from balancer.datapath.admission cimport ADMITTED, DROPPED, Admission, Verdict
from balancer.datapath.back cimport TRY_ALL, Back
from balancer.datapath.clients cimport Clients
from balancer.datapath.exchange cimport SERVERS_TRIED, Client, Exchange, dequeue, enqueue, tried
from balancer.datapath.framing cimport NOT_A_MESSAGE, PREFIX_BYTES, UNFINISHED, frame_size, load_rest
from balancer.datapath.pool cimport OWED_KNOWN, TRANSFERS_KNOWN, Link, Pool, Target
from balancer.datapath.replies cimport (
    RCODE_WIRE_SERVFAIL, belongs_to_primary, is_transfer, only_primary, write_error,
)
from balancer.datapath.retry cimport LEAST_AFTER, is_silent, on_query, on_rescue, retry_after, sample, spend
from balancer.datapath.stream cimport SOME_WAITS, Streams, waiting
from balancer.datapath.syscalls cimport EPOLLERR, EPOLLIN, EPOLLOUT
from balancer.datapath.tcp_syscalls cimport EPOLLHUP, IPPROTO_TCP, TCP_QUICKACK, setsockopt
from balancer.datapath.wire cimport (
    OPCODE_UPDATE, RCODE_WIRE_REFUSED, answers_question, is_response, opcode_of, question_end, rcode_of, read16,
    write16,
)
from balancer.schedule.base cimport NO_SERVER, Scheduler
from balancer.table.layout cimport (
    IGNORE_LATE, IGNORE_NOT_RESPONSE, IGNORE_SHORT, IGNORE_UNKNOWN_ID, IGNORE_WRONG_QUESTION, MAX_SERVERS, RCODE_OTHER,
    TCP_CLOSE_LIFETIME, TCP_CLOSE_NOT_ADMITTED, TCP_CLOSE_NO_MEMORY, TCP_CLOSE_QUERIES, TCP_CLOSE_RESPONSE,
    TCP_CLOSE_SERVER_LOST, TCP_CLOSE_WORKER_LOST, TCP_DROP_CLIENT_GONE, TCP_DROP_NO_CONNECTION,
    TCP_DROP_NO_MEMORY, TCP_DROP_NO_SERVER, TCP_DROP_NOT_ADMITTED, TCP_DROP_PRIMARY_DOWN, TCP_DROP_RESPONSE,
    TCP_DROP_UNSENT, TCP_DROP_WORKER_LOST, TcpRowServer, add, check, load, store,
)
from balancer.table.table cimport latency_bounds_ns

cdef enum:
    DOUBTED_BYTES = 514                 # of an answer, with its prefix, that is not believed at once
    WAIT_NS = 1_000_000_000             # for a connection toward a server
    TRY_AGAIN_NS = 100_000_000          # while every server fails
    MOVE_NS = 10_000_000                # between two looks whether a client should leave a server that it holds
    TIMED_OUT = -1                      # why a query is given up: else a TcpDrop
    WAITS = -2
    DUE_AGAIN = -3

cdef int _live = 0


def live():
    """Queries over TCP that are pending in this process."""
    return _live


cdef class Relay(Clients):
    """Clients, queries and links of one service. `back` is UDP's side of the same: its scheduler counts both."""

    def __cinit__(self, int service, Streams streams, Back back):
        self.back = back
        self.scheduler = back.scheduler
        self.pool = Pool(streams)
        self.admission = Admission((), (), (), ())
        self.primary = NO_SERVER

    def share(self):
        """Choose as UDP does, with its scheduler."""
        self.scheduler = self.back.scheduler
        self.apart = False

    def part(self, Scheduler scheduler):
        """Choose by this scheduler, among other servers than UDP does; `rebuild` it then."""
        cdef int slot
        self.scheduler = scheduler
        self.apart = True
        for slot in range(MAX_SERVERS):
            scheduler.own[slot] = load(&self.rows[slot].in_flight)
        self.observe()

    cdef void observe(self) noexcept nogil:
        """What else is in flight counts as load of a scheduler of our own: UDP's, and the other workers'."""
        cdef int slot
        for slot in range(self.back.used):
            self.scheduler.observe(slot, self.back.scheduler.others[slot] + load(&self.back.rows[slot].in_flight)
                                   - load(&self.rows[slot].in_flight))

    def adopt(self):
        """What a predecessor held is lost with it, and told in the counters."""
        cdef TcpRowServer *row
        cdef int slot
        add(&self.row.dropped[<int>TCP_DROP_WORKER_LOST], load(&self.row.in_flight))
        add(&self.row.closed[<int>TCP_CLOSE_WORKER_LOST], load(&self.row.open))
        store(&self.row.in_flight, 0)
        store(&self.row.open, 0)
        for slot in range(MAX_SERVERS):
            row = &self.rows[slot]
            store(&row.in_flight, 0)
            store(&row.open, 0)
            store(&row.idle, 0)

    # Queries

    cdef void _query(self, Client *client, uint8_t *frame, int size) noexcept nogil:
        """One message of a client, with its prefix: judge it, send it on."""
        global _live
        cdef uint8_t *message = frame + PREFIX_BYTES
        cdef int length = size - PREFIX_BYTES, end
        cdef Verdict verdict
        cdef Exchange *exchange
        add(&self.row.queries, 1)
        client.queries += 1
        on_query(&self.back.rcode_budget)
        on_query(&self.back.budget)
        if is_response(message):
            add(&self.row.dropped[<int>TCP_DROP_RESPONSE], 1)
            self._end(client, TCP_CLOSE_RESPONSE)
            return
        end = question_end(message, length)
        verdict = self.admission.judge(message, end, client.address)
        if verdict != ADMITTED:
            add(&self.row.dropped[<int>TCP_DROP_NOT_ADMITTED], 1)
            if verdict == DROPPED:
                self._end(client, TCP_CLOSE_NOT_ADMITTED)
            else:
                self._say(client, frame, size, end, RCODE_WIRE_REFUSED)
            return
        exchange = <Exchange *>malloc(sizeof(Exchange) + size) if self.streams.held < self.streams.held_most else NULL
        if exchange == NULL:
            add(&self.row.dropped[<int>TCP_DROP_NO_MEMORY], 1)
            self._say(client, frame, size, end, RCODE_WIRE_SERVFAIL)
            return
        memset(exchange, 0, sizeof(Exchange))
        memcpy(exchange.bytes, frame, size)
        exchange.client = client
        exchange.size = size
        exchange.question_end = end
        exchange.arrived_ns = self.streams.now
        exchange.id = read16(message)
        exchange.for_primary = self.primary != NO_SERVER and belongs_to_primary(message, end)
        exchange.transfer = is_transfer(message, end)
        exchange.update = opcode_of(message) == OPCODE_UPDATE
        exchange.previous = client.last
        if client.last != NULL:
            client.last.following = exchange
        else:
            client.first = exchange
        client.last = exchange
        client.pending += 1
        client.pending_bytes += size
        if client.list != &self.busy:
            self._place(client, &self.busy)         # from here on it makes room for nobody
        self.streams.held += size
        _live += 1
        store(&self.row.in_flight, load(&self.row.in_flight) + 1)
        self._dispatch(exchange)
        if self.limits.queries and client.queries >= self.limits.queries:
            self._end(client, TCP_CLOSE_QUERIES)
        elif (self.limits.lifetime_ns and self.streams.now - client.accepted_ns > self.limits.lifetime_ns
                and not self._married(client)):
            self._end(client, TCP_CLOSE_LIFETIME)

    cdef void _dispatch(self, Exchange *exchange) noexcept nogil:
        """Send a query on its way: over a link that its client holds, else over another one."""
        cdef int only = NO_SERVER, reason = TCP_DROP_UNSENT
        cdef Link *link
        if exchange.tries >= SERVERS_TRIED or (exchange.update and exchange.handed_over):
            if self._strand(exchange):
                return
            if exchange.tries >= SERVERS_TRIED and exchange.handed_over and not exchange.timed_out:
                self.back.killers.note(exchange.bytes + PREFIX_BYTES, exchange.question_end, exchange.client.address,
                                       sizeof(exchange.client.address))
            self._give_up(exchange, TIMED_OUT if exchange.timed_out else <int>TCP_DROP_UNSENT)
            return
        if exchange.for_primary:
            if (self.primary != NO_SERVER and self.scheduler.place[self.primary] != NO_SERVER
                    and not tried(exchange, self.primary)):
                only = self.primary
            elif self.primary != NO_SERVER and only_primary(exchange.bytes + PREFIX_BYTES):
                self._give_up(exchange, TIMED_OUT if exchange.timed_out else <int>TCP_DROP_PRIMARY_DOWN)
                return
        link = self._held(exchange, only)
        if link == NULL:
            link = self._choose(exchange, only, &reason)
        elif only == NO_SERVER and self.streams.now - self.moved_ns >= <uint64_t>MOVE_NS:
            link = self._lighter(exchange, link)
        if link != NULL:
            self._send(exchange, link)
        elif reason == WAITS:
            if not exchange.waits:
                exchange.waits = True
                exchange.since_ns = self.streams.now
            enqueue(&self.waiting, exchange)
        elif reason == DUE_AGAIN:
            enqueue(&self.orphans, exchange)
        elif not self._strand(exchange):
            self._give_up(exchange, TIMED_OUT if exchange.timed_out else reason)

    cdef Link *_held(self, Exchange *exchange, int only) noexcept nogil:
        """A link that the client holds already and that will do."""
        cdef Link *link = exchange.client.links
        while link != NULL:
            # A query that met a dying connection takes one that has shown to be alive, or is new. A server that may
            # not be chosen any more (drained, removed, suspected) gets no query of a client that never pauses either.
            if (not link.poisoned and not link.silent and not tried(exchange, link.slot)
                    and self.scheduler.place[link.slot] != NO_SERVER and (only == NO_SERVER or link.slot == only)
                    and not (exchange.stale and link.reused and link.answered_ns == 0)):
                return link
            link = link.next
        return NULL

    cdef Link *_lighter(self, Exchange *exchange, Link *held) noexcept nogil:
        """Clients that never pause hold their links for ever, so one of them at a time goes on elsewhere if its server
        has clearly more to do than the one whose turn it is: a server that comes back has its share of them, too. What
        a client leaves behind counts there until it is answered, so several at once would be too many."""
        cdef Client *client = exchange.client
        cdef int slot = self.scheduler.pick(client.key, NO_SERVER), here, there
        cdef Link *link
        self.moved_ns = self.streams.now
        if slot == NO_SERVER or slot == held.slot or held.married or tried(exchange, slot) or self.pool.avoided(slot):
            return held
        here = self.scheduler.place[held.slot]
        there = self.scheduler.place[slot]
        if (self.scheduler.load[here] * self.scheduler.weight[there]
                <= (self.scheduler.load[there] + client.pending) * self.scheduler.weight[here]):
            return held
        link = self.pool.take(slot, False)
        if link == NULL:
            return held
        self._hold(client, link)
        return link

    cdef void _hold(self, Client *client, Link *link) noexcept nogil:
        """It is the client's from here on, and its next queries go there."""
        link.client = client
        link.stream.service = self.service
        link.next = client.links
        client.links = link

    cdef Link *_choose(self, Exchange *exchange, int only, int *reason) noexcept nogil:
        """Another link, held by the client from here on; NULL, and why, when there is none."""
        cdef int exclude = exchange.tried[exchange.tries - 1] if exchange.tries else NO_SERVER
        cdef int turn, slot, other
        cdef bint fresh = exchange.update or exchange.stale
        cdef Client *client = exchange.client
        cdef Link *link
        reason[0] = TCP_DROP_UNSENT if exchange.tries else <int>TCP_DROP_NO_SERVER
        for turn in range(2):
            slot = only if only != NO_SERVER else self.scheduler.pick(client.key, exclude)
            if slot == NO_SERVER:
                break
            if only == NO_SERVER and turn == 0 and self.pool.avoided(slot):
                other = self.scheduler.pick(client.key, slot)
                if other != NO_SERVER and not self.pool.avoided(other) and not tried(exchange, other):
                    slot = other
            link = self.pool.take(slot, fresh)
            if link == NULL and self.pool.starved and self._evict():
                link = self.pool.take(slot, fresh)
            if link != NULL:
                self._hold(client, link)
                return link
            if not self.pool.full(slot) and not self.pool.starved:      # it cannot be connected to at all
                exchange.tried[exchange.tries] = slot
                exchange.tries += 1
                reason[0] = DUE_AGAIN
                return NULL
            reason[0] = WAITS
            if only != NO_SERVER or exclude != NO_SERVER:
                break
            exclude = slot
        return NULL

    cdef bint _send(self, Exchange *exchange, Link *link) noexcept nogil:
        cdef TcpRowServer *row = &self.rows[link.slot]
        if not self.streams.stage(&link.stream, exchange.bytes, exchange.size):
            self._give_up(exchange, TCP_DROP_NO_MEMORY)
            return False
        if exchange.tries or exchange.stale:
            add(&row.resends, 1)
        exchange.tried[exchange.tries] = link.slot
        exchange.tries += 1
        exchange.link = link
        exchange.since_ns = self.streams.now
        exchange.timed_out = exchange.waits = False
        enqueue(&self.sent, exchange)
        self.pool.asked(link.slot)
        link.outstanding += 1
        if exchange.transfer:
            link.married = True
            link.transfer_ids[link.transfers % TRANSFERS_KNOWN] = exchange.id
            link.transfers += 1
            add(&self.row.transfers, 1)
        self.back.scheduler.claim(link.slot)
        if self.apart:
            self.scheduler.claim(link.slot)
        store(&self.back.rows[link.slot].in_flight, load(&self.back.rows[link.slot].in_flight) + 1)
        store(&row.in_flight, load(&row.in_flight) + 1)
        add(&row.queries, 1)
        add(&row.bytes_out, exchange.size - PREFIX_BYTES)
        return True

    cdef void _unsend(self, Exchange *exchange) noexcept nogil:
        """It is not outstanding on its link any more."""
        cdef Link *link = exchange.link
        dequeue(exchange)
        exchange.link = NULL
        self._release(link)

    cdef void _unsend_first(self, Exchange *exchange) noexcept nogil:
        """It is not outstanding on its first link any more."""
        cdef Link *link = exchange.first
        exchange.first = NULL
        self._release(link)

    cdef void _release(self, Link *link) noexcept nogil:
        """One query less is outstanding there."""
        cdef TcpRowServer *row = &self.rows[link.slot]
        link.outstanding -= 1
        self.back.scheduler.release(link.slot)
        if self.apart:
            self.scheduler.release(link.slot)
        check(load(&row.in_flight) > 0 and load(&self.back.rows[link.slot].in_flight) > 0)
        store(&self.back.rows[link.slot].in_flight, load(&self.back.rows[link.slot].in_flight) - 1)
        store(&row.in_flight, load(&row.in_flight) - 1)

    cdef void _give_up(self, Exchange *exchange, int reason) noexcept nogil:
        """No server will answer it: SERVFAIL, or what one said that was not believed."""
        cdef Link *link
        if exchange.first != NULL:
            link = exchange.first
            link.poisoned = True
            self._unsend_first(exchange)
            if link.outstanding == 0 and not link.married:
                self._let_go(link)
        if exchange.doubted != NULL:
            add(&self.row.answers, 1)
            if self.streams.stage(&exchange.client.stream, exchange.doubted, exchange.doubted_size):
                exchange.client.answered = True
            else:
                self._end(exchange.client, TCP_CLOSE_NO_MEMORY)
            self._forget(exchange)
            return
        if reason == TIMED_OUT:
            add(&self.row.timeouts, 1)
        else:
            add(&self.row.dropped[reason], 1)
        self._say(exchange.client, exchange.bytes, exchange.size, exchange.question_end, RCODE_WIRE_SERVFAIL)
        self._forget(exchange)

    cdef void _say(self, Client *client, const uint8_t *frame, int size, int end, int rcode) noexcept nogil:
        """An answer of our own. When there is no memory for it, the client is let go."""
        cdef uint8_t[PREFIX_BYTES + 512] made
        cdef int length = write_error(made + PREFIX_BYTES, frame + PREFIX_BYTES, size - PREFIX_BYTES, end, rcode)
        write16(made, <uint16_t>length)
        if self.streams.stage(&client.stream, made, PREFIX_BYTES + length):
            client.answered = True
        else:
            self._end(client, TCP_CLOSE_NO_MEMORY)

    cdef void _forget(self, Exchange *exchange) noexcept nogil:
        """Done with: not in a queue, not its client's any more, freed."""
        global _live
        cdef Client *client = exchange.client
        check(exchange.first == NULL)
        dequeue(exchange)
        if exchange.previous != NULL:
            exchange.previous.following = exchange.following
        else:
            client.first = exchange.following
        if exchange.following != NULL:
            exchange.following.previous = exchange.previous
        else:
            client.last = exchange.previous
        client.pending -= 1
        client.pending_bytes -= exchange.size
        self.streams.held -= exchange.size
        _live -= 1
        check(load(&self.row.in_flight) > 0)
        store(&self.row.in_flight, load(&self.row.in_flight) - 1)
        if exchange.doubted != NULL:
            self.doubted -= 1
            free(exchange.doubted)
        free(exchange)
        self.streams.touch(&client.stream)

    # Links

    cdef void on_link(self, Link *link, uint32_t events) noexcept nogil:
        if link.client == NULL:
            self.pool.on_idle_event(link)
            self.room = True
        elif events & (EPOLLERR | EPOLLHUP) and not link.stream.watched & EPOLLIN:
            self._lose(link)
        else:
            if events & EPOLLOUT:
                self.streams.touch(&link.stream)
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                self._read_link(link)

    cdef void _read_link(self, Link *link) noexcept nogil:
        cdef Client *client = <Client *>link.client
        cdef int on = 1, size = 0, at = 0, found, got = self.streams.receive(&link.stream, &size)
        if got == -EAGAIN:
            return
        if got <= 0:
            self._lose(link)
            return
        while True:
            found = frame_size(self.streams.scratch + at, size - at)
            if found == UNFINISHED:
                break
            if found == NOT_A_MESSAGE:
                add(&self.rows[link.slot].ignored[<int>IGNORE_SHORT], 1)
                self._lose(link)
                return
            if not self._answer(link, self.streams.scratch + at, found):
                return
            at += found
        if not self.streams.keep(&link.stream, at, size):
            self._lose(link)
            return
        self.streams.touch(&client.stream)
        if link.outstanding == 0 and not link.married:
            self._let_go(link)
        elif not link.married and waiting(&link.stream) == 0:
            # A server without TCP_NODELAY keeps its next answer until it knows that this one came (Nagle, RFC 896),
            # which the kernel would say 40 ms later. What is sent to it would say it, too.
            setsockopt(link.stream.descriptor, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))

    cdef bint _answer(self, Link *link, uint8_t *frame, int size) noexcept nogil:
        """One message of a server, with its prefix. False when link and client are closed."""
        cdef uint8_t *message = frame + PREFIX_BYTES
        cdef Client *client = <Client *>link.client
        cdef Exchange *exchange = client.first
        cdef TcpRowServer *row = &self.rows[link.slot]
        cdef uint16_t id = read16(message)
        cdef bint same_id = False
        cdef int rcode, index, bucket = 0
        cdef uint64_t latency
        cdef uint64_t *bounds = latency_bounds_ns()
        if not is_response(message):
            add(&row.ignored[<int>IGNORE_NOT_RESPONSE], 1)
            link.poisoned = True
            return True
        while exchange != NULL:
            if exchange.id == id and (exchange.link == link or exchange.first == link):
                same_id = True
                if answers_question(message, size - PREFIX_BYTES, exchange.bytes + PREFIX_BYTES,
                                    exchange.question_end):
                    break
            exchange = exchange.following
        link.silent = False
        if self.pool.heard(link.slot):
            self.tried_ns = 0                   # whoever waits for anybody is due now
            self.back.stale = True              # and it grows into its weight
        if exchange == NULL:
            for index in range(link.owed):
                if link.owed_ids[index] == id:
                    link.owed -= 1
                    link.owed_ids[index] = link.owed_ids[link.owed]
                    add(&row.ignored[<int>IGNORE_LATE], 1)
                    return True
            if link.transferring:
                for index in range(link.transfers if link.transfers < TRANSFERS_KNOWN else TRANSFERS_KNOWN):
                    if link.transfer_ids[index] == id:
                        add(&row.bytes_in, size - PREFIX_BYTES)
                        if self.streams.stage(&client.stream, frame, size):
                            return True
                        self._close(client, TCP_CLOSE_NO_MEMORY)
                        return False
            add(&row.ignored[<int>IGNORE_WRONG_QUESTION if same_id else <int>IGNORE_UNKNOWN_ID], 1)
            link.poisoned = True
            return True
        rcode = rcode_of(message)
        add(&row.answers[rcode if rcode < <int>RCODE_OTHER else <int>RCODE_OTHER], 1)
        add(&row.bytes_in, size - PREFIX_BYTES)
        latency = self.streams.now - (exchange.first_ns if link == exchange.first else exchange.since_ns)
        while latency > bounds[bucket]:
            bucket += 1
        add(&row.latency[bucket], 1)
        add(&row.latency_sum_ns, latency)
        link.answered_ns = self.streams.now
        if exchange.tries == 1 and not link.connecting:
            sample(&self.pool.targets[link.slot].trust, self.streams.now - max(exchange.since_ns, link.since_ns))
        if self._doubt(exchange, link, rcode, frame, size):
            return True
        if not self.streams.stage(&client.stream, frame, size):
            self._close(client, TCP_CLOSE_NO_MEMORY)
            return False
        client.answered = True
        add(&self.row.answers, 1)
        if exchange.transfer:
            if rcode == 0:
                link.transferring = True
            elif link.transfers == 1:
                link.married = False            # refused: there is no transfer
                link.transfers = 0
        if exchange.first != NULL:
            self._rescued(exchange, link)
        self._unsend(exchange)
        self._forget(exchange)
        return True

    cdef void _rescued(self, Exchange *exchange, Link *link) noexcept nogil:
        """One of two servers has answered: the other's answer is owed, and nobody waits for it any more."""
        cdef Link *other = exchange.link if link == exchange.first else exchange.first
        cdef Target *target = &self.pool.targets[other.slot]
        if other.owed < OWED_KNOWN:
            other.owed_ids[other.owed] = exchange.id
            other.owed += 1
        else:
            other.poisoned = True
        if other == exchange.first:
            # Two connections are two who ask: one address may be that of many.
            on_rescue(&target.trust, exchange.client.stream.generation << 20 ^ exchange.client.stream.number)
            if self.back.suspend_on and not target.failing and is_silent(
                    &target.trust, self.streams.now, self.back.suspend_after_ns):
                self.pool.avoid(other.slot)
            self._unsend_first(exchange)
        else:
            self._release(other)
            exchange.link = link
            exchange.first = NULL
        if other.outstanding == 0 and not other.married:
            self._let_go(other)

    cdef bint _doubt(self, Exchange *exchange, Link *link, int rcode, const uint8_t *frame, int size) noexcept nogil:
        """Keep an answer that may be wrong, and wait for the other server, which is asked unless it was; False: it is
        to be relayed now."""
        cdef bint both = exchange.first != NULL
        if (not self.back.rcodes >> rcode & 1 or (exchange.tries >= SERVERS_TRIED and not both) or exchange.update
                or exchange.transfer or size > DOUBTED_BYTES
                or not (both or spend(&self.back.rcode_budget, self.streams.now))):
            return False
        exchange.doubted = <uint8_t *>malloc(size)
        if exchange.doubted == NULL:
            return False
        memcpy(exchange.doubted, frame, size)
        exchange.doubted_size = size
        self.doubted += 1
        if link == exchange.first:
            self._unsend_first(exchange)
            return True
        self._unsend(exchange)
        if both:
            self._await_first(exchange)
        else:
            enqueue(&self.orphans, exchange)
        return True

    cdef void _await_first(self, Exchange *exchange) noexcept nogil:
        """Its second link is no more: the first may still answer, unless that has had its time; else nobody does."""
        cdef Link *first = exchange.first
        if self.streams.now - exchange.first_ns >= self.limits.timeout_ns:
            first.poisoned = True
            self._unsend_first(exchange)
            exchange.timed_out = True
            enqueue(&self.orphans, exchange)
            if first.outstanding == 0 and not first.married:
                self._let_go(first)
            return
        exchange.link = first
        exchange.first = NULL
        exchange.since_ns = self.streams.now        # `sent` is in order of time
        enqueue(&self.sent, exchange)

    cdef void _drop(self, Client *client) noexcept nogil:
        """What is pending is lost, and so are the links that carry it: late answers reach nobody."""
        cdef Exchange *exchange
        while client.first != NULL:
            exchange = client.first
            if exchange.link != NULL:
                exchange.link.poisoned = True
                self._unsend(exchange)
            if exchange.first != NULL:
                exchange.first.poisoned = True
                self._unsend_first(exchange)
            add(&self.row.dropped[<int>TCP_DROP_CLIENT_GONE], 1)
            self._forget(exchange)
        while client.links != NULL:
            self._let_go(client.links)

    cdef void _let_go(self, Link *link) noexcept nogil:
        """The client needs it no more: back into the pool, unless something is odd about it."""
        cdef bint clean = (not link.poisoned and not link.connecting and link.outstanding == 0 and not link.married
                           and link.owed == 0 and link.stream.rest.size == 0 and waiting(&link.stream) == 0)
        self._detach(link)
        if clean:
            self.streams.watch(&link.stream, EPOLLIN)
            self.pool.give(link)
        else:
            self.pool.close_link(link)
        self.room = True

    cdef void _detach(self, Link *link) noexcept nogil:
        cdef Client *client = <Client *>link.client
        cdef Link **place = &client.links
        while place[0] != link:
            check(place[0] != NULL)
            place = &place[0].next
        place[0] = link.next
        link.next = NULL
        link.client = NULL

    cdef void _lose(self, Link *link) noexcept nogil:
        """A held link failed: its unanswered queries are due for another server."""
        cdef Client *client = <Client *>link.client
        cdef Exchange *exchange = client.first
        cdef bint stale = link.reused and link.answered_ns == 0
        cdef int lost = 0
        while exchange != NULL:
            if exchange.link == link or exchange.first == link:
                lost += 1
                exchange.handed_over = exchange.handed_over or not link.connecting
            if exchange.first == link:
                self._unsend_first(exchange)
            elif exchange.link == link and exchange.first != NULL:
                self._unsend(exchange)
                self._await_first(exchange)
            elif exchange.link == link:
                self._unsend(exchange)
                # Its server was closing the pooled connection just then: that is no failure, and no server tried.
                if stale and not exchange.stale and not exchange.timed_out:
                    exchange.stale = True
                    exchange.tries -= 1
                enqueue(&self.orphans, exchange)
            exchange = exchange.following
        if lost and not stale:
            add(&self.rows[link.slot].failures, 1)
            self.pool.avoid(link.slot)
        self._detach(link)
        if link.transferring:
            self._end(client, TCP_CLOSE_SERVER_LOST)
        self.pool.close_link(link)
        self.room = True
        self.streams.touch(&client.stream)

    # The end of a wake

    cdef bint unsettled(self) noexcept nogil:
        return (self.orphans.oldest != NULL or self.resuming != NULL
                or (self.room and self.waiting.oldest != NULL))

    cdef void settle(self) noexcept nogil:
        """Dispatch orphans, let waiting queries have what came free, read on from clients that were full."""
        cdef Exchange *exchange
        cdef Exchange *following
        cdef Exchange *last
        cdef Client *client
        cdef int index
        cdef bint free_link
        while self.unsettled():
            exchange = self.orphans.oldest
            if exchange != NULL:
                dequeue(exchange)
                self._dispatch(exchange)
                continue
            client = self.resuming
            if client != NULL:
                self.resuming = client.resume_next
                client.resuming = False
                if client.stream.descriptor >= 0:
                    self._serve(client, load_rest(&client.stream.rest, self.streams.scratch))
                continue
            self.room = False
            exchange = self.waiting.oldest
            last = self.waiting.newest          # those that must wait on are behind it from then on
            while exchange != NULL:
                following = exchange.newer if exchange != last else NULL
                free_link = False
                for index in range(self.scheduler.count):
                    if not self.pool.full(self.scheduler.slot[index]):
                        free_link = True
                        break
                if not free_link:
                    break
                if not (exchange.for_primary and self.primary != NO_SERVER and self.pool.full(self.primary)):
                    dequeue(exchange)
                    self._dispatch(exchange)
                exchange = following

    cdef void flush_link(self, Link *link) noexcept nogil:
        cdef int done
        if link.client == NULL:
            return
        done = self.streams.flush(&link.stream)
        if done < 0:
            self._lose(link)
            return
        if done == SOME_WAITS:
            self.streams.watch(&link.stream, link.stream.watched | EPOLLOUT)
        else:
            if link.connecting:
                link.connecting = False
                link.since_ns = self.streams.now
            self.streams.watch(&link.stream, link.stream.watched & ~EPOLLOUT)

    # Time

    cdef void sweep(self) noexcept nogil:
        """What time brings; `settle` and the flush follow."""
        self._expire()
        self.look()
        self.sweep_clients()
        self.pool.expire(self.stopping)

    cdef void look(self) noexcept nogil:
        """Have another server asked what one has not answered for long: see retry.pxd."""
        cdef Exchange *exchange = self.sent.oldest
        cdef Exchange *following
        cdef Target *target
        cdef bint lost
        cdef uint64_t age
        if self.stranded.oldest != NULL and self.streams.now - self.tried_ns >= <uint64_t>TRY_AGAIN_NS:
            self._try_again()
        if not self.back.retry_on:
            return
        while exchange != NULL:
            if self.streams.now - exchange.since_ns < <uint64_t>LEAST_AFTER and not self.back.retry_after_ns:
                break
            # The handshake has a round trip of its own: a server that is far away is not silent meanwhile.
            age = self.streams.now - max(exchange.since_ns, exchange.link.since_ns)
            following = exchange.newer
            target = &self.pool.targets[exchange.link.slot]
            lost = target.failing or self.back.suspected(exchange.link.slot)
            # What we do not listen to is not silent.
            if (exchange.first == NULL and exchange.tries < SERVERS_TRIED and not exchange.update
                    and not exchange.transfer and not exchange.for_primary and exchange.doubted == NULL
                    and not exchange.link.married and exchange.link.stream.watched & EPOLLIN
                    and (self.scheduler.count > 1 or self.scheduler.place[exchange.link.slot] == NO_SERVER)
                    and (lost or age >= retry_after(&target.trust, self.back.retry_after_ns))
                    and (lost or spend(&self.back.budget, self.streams.now))):
                self._ask_another(exchange)
            exchange = following

    cdef bint _strand(self, Exchange *exchange) noexcept nogil:
        """Keep a query while every server fails, as UDP does; False: it is given up. What has reached servers goes to
        no others, so not where there are more than it may meet."""
        cdef int index
        if (not self.back.retry_on or self.back.when_all_down != TRY_ALL or exchange.update or exchange.transfer
                or exchange.timed_out or exchange.doubted != NULL or self.scheduler.count == 0
                or (exchange.handed_over and self.scheduler.count > SERVERS_TRIED)
                or self.streams.now - exchange.arrived_ns >= self.limits.timeout_ns):
            return False
        for index in range(self.scheduler.count):
            if not self.pool.targets[self.scheduler.slot[index]].failing:
                return False
        exchange.tries = 0
        exchange.stale = False
        enqueue(&self.stranded, exchange)
        return True

    cdef void _try_again(self) noexcept nogil:
        """Those for whom nobody was there go out again; whose time is up is given up."""
        cdef Exchange *exchange = self.stranded.oldest
        self.tried_ns = self.streams.now
        while exchange != NULL:
            dequeue(exchange)
            if self.streams.now - exchange.arrived_ns >= self.limits.timeout_ns:
                self._give_up(exchange, TCP_DROP_UNSENT)
            else:
                enqueue(&self.orphans, exchange)
            exchange = self.stranded.oldest

    cdef bint _ask_another(self, Exchange *exchange) noexcept nogil:
        """Send it to another server too; False when none can be had now."""
        cdef int reason = 0
        cdef Link *first = exchange.link
        cdef Link *link = self._held(exchange, NO_SERVER)
        if link == NULL:
            link = self._choose(exchange, NO_SERVER, &reason)
        if link == NULL:
            return False
        dequeue(exchange)
        exchange.first = first
        exchange.first_ns = exchange.since_ns
        exchange.link = NULL
        first.silent = True
        return self._send(exchange, link)

    cdef void _expire(self) noexcept nogil:
        """Queries that were not answered, or not sent, for too long. Both queues are in order of time."""
        cdef Exchange *exchange = self.sent.oldest if self.doubted else NULL
        cdef Exchange *following
        cdef Link *link
        while exchange != NULL:
            following = exchange.newer
            if exchange.doubted != NULL and self.streams.now - exchange.since_ns > retry_after(
                    &self.back.servers[exchange.link.slot].trust, self.back.retry_after_ns):
                link = exchange.link
                link.poisoned = True
                self._unsend(exchange)
                self._give_up(exchange, TIMED_OUT)
                if link.outstanding == 0 and not link.married:
                    self._let_go(link)
            exchange = following
        while True:
            exchange = self.sent.oldest
            if exchange == NULL or self.streams.now - exchange.since_ns < self.limits.timeout_ns:
                break
            link = exchange.link
            if not link.stream.watched & EPOLLIN:       # we do not listen: its client reads nothing now
                dequeue(exchange)
                exchange.since_ns = self.streams.now
                enqueue(&self.sent, exchange)
                continue
            if link.answered_ns <= exchange.since_ns:   # not a word since: the whole connection is silent
                exchange = exchange.client.first
                while exchange != NULL:
                    if exchange.link == link:
                        exchange.timed_out = True
                        add(&self.rows[link.slot].timeouts, 1)
                    exchange = exchange.following
                self._lose(link)
            else:                                       # others are answered: only this one is not
                add(&self.rows[link.slot].timeouts, 1)
                exchange.timed_out = exchange.handed_over = True
                link.poisoned = True
                self._unsend(exchange)
                if exchange.first != NULL:
                    self._await_first(exchange)
                else:
                    enqueue(&self.orphans, exchange)
                if link.outstanding == 0 and not link.married:
                    self._let_go(link)
        while True:
            exchange = self.waiting.oldest
            if exchange == NULL or self.streams.now - exchange.since_ns < WAIT_NS:
                break
            self._give_up(exchange, TCP_DROP_NO_CONNECTION)

    def close(self):
        """Close everything now."""
        self.close_clients()
        self.pool.expire(True)
