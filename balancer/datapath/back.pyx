"""The side toward the servers of one service: choose, send, match answers, notice refusals. Runs in a worker.

Each server has several connected sockets; a whole batch goes out on one of them and the next batch on the next, so
BIND, which spreads load over its threads by source port, uses all of them. An answer counts only if it came in on
the socket its query left on, with the id and the question that were sent; anything else is counted and the query
stays pending, for the true answer may still come.

`sendmmsg` hides an error behind a short count and has consumed it then, so sending resumes at the same message; a
second failure fails that leg, and the rest of the batch is scheduled anew.

A record is released only when the kernel has its answer: a worker that dies in between leaves a pending query, which
its successor sends again (`send_again`). The client may then hear two answers; it never hears none.
"""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from balancer.datapath.errqueue cimport Returned, read_error
from balancer.datapath.front cimport Arrival
from balancer.datapath.killers cimport Killer, Killers
from balancer.datapath.mmsg cimport Inbox, Outbox
from balancer.datapath.query cimport (
    KEPT_BYTES, LEG_FREE, LEG_SENT, LEG_WAITING, LEGS, NONE, QUERY_ANSWERED, QUERY_PENDING, Leg, Query, Slots,
)
from balancer.datapath.recovery cimport (
    NOBODY, ONE_OF_MANY, ROUNDS, SOMEBODY, Recovery, begin, on_recovered, on_resent, on_return, room, takes,
)
from balancer.datapath.replies cimport RCODE_WIRE_SERVFAIL, belongs_to_primary, only_primary, write_error
from balancer.datapath.retry cimport (
    MILLISECOND, MOST_AFTER, SUSPECTED_FOR, Trust, judge, on_answer, on_query, on_refusal, on_rescue, on_sent,
    retry_after, sample, spend, wants_double,
)
from balancer.datapath.syscalls cimport (
    AF_UNSPEC, MSG_DONTWAIT, c_connect, getpeername, sendmmsg, sockaddr, sockaddr_in6, socklen_t,
)
from balancer.datapath.wire cimport (
    HEADER_BYTES, OPCODE_UPDATE, answers_question, is_response, opcode_of, rcode_of, read16, same_question, write16,
)
from balancer.schedule.base cimport NO_SERVER, Scheduler
from balancer.table.layout cimport (
    DROP_BACKLOG_FULL, DROP_NO_SERVER, DROP_PRIMARY_DOWN, DROP_TABLE_FULL, DROP_UNSENT, IGNORE_LATE,
    IGNORE_NOT_RESPONSE, IGNORE_SHORT, IGNORE_UNKNOWN_ID, IGNORE_WRONG_QUESTION, MAX_SERVERS, PROTO_TCP, PROTO_UDP,
    RCODE_OTHER, VERDICT_DOWN, VERDICT_UNKNOWN, VERDICT_UP, RowServer, add, check, load, store,
)
from balancer.table.table cimport latency_bounds_ns

cdef enum:
    OUTBOX = 256
    ERRORS_PER_LOOK = 256               # entries of one error queue read at once
    TRY_AGAIN = 100 * MILLISECOND       # while nobody is trusted: between two times that pending queries go out again
    TRIED_AT_ONCE = 64                  # of them, until somebody answers
    KILLER_WATCHED = 10_000 * MILLISECOND   # a query that two did not answer, for whether both have gone away


cdef class Back:
    """The servers of one service. Rows and slots belong to the worker and outlive this object."""

    def __cinit__(self, int service, Slots slots, Front front, Scheduler scheduler, uint64_t timeout_ns):
        self.service = service
        self.slots = slots
        self.front = front
        self.scheduler = scheduler
        self.timeout_ns = timeout_ns
        self.primary = NO_SERVER
        self.newest = NONE
        for slot in range(MAX_SERVERS):
            self.servers[<int>slot].first = self.servers[<int>slot].last = NONE
        self.held = <Held *>calloc(HELD_MOST, sizeof(Held))
        if self.held == NULL:
            raise MemoryError("held answers")
        self.killers = Killers()
        self.inbox = Inbox(ANSWERS, False)
        self.outbox = Outbox(OUTBOX)

    def __dealloc__(self):
        free(self.held)

    def open(self, int slot, descriptors):
        """Connected sockets toward the server in `slot`; they stay the caller's to close."""
        cdef Server *server = &self.servers[slot]
        if not 0 < len(descriptors) <= MAX_SOCKETS:
            raise ValueError(f"{len(descriptors)} sockets toward server slot {slot}, allowed 1 to {MAX_SOCKETS}")
        server.sockets = len(descriptors)
        server.turn = 0
        memset(&server.trust, 0, sizeof(Trust))
        server.refused_ns = 0
        server.suspected_elsewhere = server.rescue = server.ordered_up = False
        server.verdict[<int>PROTO_UDP] = server.verdict[<int>PROTO_TCP] = VERDICT_UNKNOWN
        server.returned_ns[<int>PROTO_UDP] = server.returned_ns[<int>PROTO_TCP] = 0
        for place in range(server.sockets):
            server.descriptor[place] = descriptors[place]
        # A socket that lost its route and was connected again without one has forgotten its peer: keep what is known.
        cdef sockaddr_in6 peer
        cdef socklen_t size = sizeof(peer)
        for place in range(server.sockets):
            if getpeername(server.descriptor[place], <sockaddr *>&peer, &size) == 0:
                server.peer = peer
                server.peer_size = size
        store(&self.rows[slot].open, server.sockets)

    def close(self, int slot):
        """Forget the sockets of a removed server. Nothing is in flight there; its row is not touched any more."""
        self.servers[slot].sockets = 0
        store(&self.rows[slot].open, 0)

    def is_open(self, int slot):
        return self.servers[slot].sockets > 0

    def adopt(self):
        """Count the legs that the slots hold from a predecessor; gauges are set, counters go on."""
        cdef int number = self.slots.oldest[self.service], leg, pending = 0
        cdef Query *query
        for slot in range(MAX_SERVERS):
            if load(&self.rows[slot].in_flight):
                store(&self.rows[slot].in_flight, 0)
            if load(&self.rows[slot].open) != <uint64_t>self.servers[<int>slot].sockets:
                store(&self.rows[slot].open, self.servers[<int>slot].sockets)
        while number != NONE:
            query = self.slots.query(number)
            pending += 1
            for leg in range(LEGS):
                if query.legs[leg].state != LEG_FREE:
                    if opcode_of(query.bytes) == OPCODE_UPDATE:
                        query.legs[leg].state = LEG_SENT    # it may have been: never twice
                    self.scheduler.claim(query.legs[leg].server)
                    add(&self.rows[query.legs[leg].server].in_flight, 1)
            number = query.newer
        store(&self.row.in_flight, pending)

    cdef void send_again(self) noexcept nogil:
        """Send every pending query of a predecessor once more, on the newest leg it has open, else to a server anew.

        What was answered meanwhile was relayed before. UPDATE is left to wait for its answer: it is never sent twice.
        """
        cdef int number = self.slots.oldest[self.service], leg, next
        cdef Query *query
        cdef uint8_t *bytes
        while number != NONE:
            query = self.slots.query(number)
            next = query.newer
            bytes = self.slots.bytes(number)
            if bytes != NULL and opcode_of(bytes) != OPCODE_UPDATE:
                leg = number * LEGS + LEGS - 1
                while leg >= number * LEGS and self.slots.leg(leg).state == LEG_FREE:
                    leg -= 1
                if self.outbox.count == OUTBOX:
                    self.flush()
                if leg < number * LEGS:
                    query.legs_used = 0
                    self._first(number, bytes)
                else:
                    self.slots.leg(leg).again = True
                    write16(query.bytes, self.slots.leg(leg).id)
                    add(&self.rows[self.slots.leg(leg).server].resends, 1)
                    self.outbox.put(<int>self.slots.leg(leg).socket, leg, self.slots.bytes(number), query.size)
            number = next
        self.flush()

    cdef void handle(self) noexcept nogil:
        """Forward what `front` admitted."""
        cdef int index, number
        cdef Arrival *arrival
        cdef Query *query
        cdef uint8_t *bytes
        self.batch += 1
        for index in range(self.front.arrival_count):
            arrival = &self.front.arrivals[index]
            if (self.primary != NO_SERVER and only_primary(arrival.bytes)
                    and self.scheduler.place[self.primary] == NO_SERVER):
                add(&self.row.dropped[<int>DROP_PRIMARY_DOWN], 1)
                self.front.refuse(&self.front.listeners[self.front.receiving], self.front.receiving, arrival,
                                  RCODE_WIRE_SERVFAIL)
                continue
            number = self.slots.claim(self.service, self.now)
            if number == NONE:
                add(&self.row.dropped[<int>DROP_TABLE_FULL], 1)
                continue
            query = self.slots.query(number)
            query.listener = self.front.receiving
            query.client_id = read16(arrival.bytes)
            query.size = arrival.size
            query.question_end = arrival.question_end
            query.interface = arrival.interface
            query.client_size = arrival.client_size
            query.key = arrival.key
            memcpy(query.client, arrival.client, arrival.client_size)
            memcpy(query.local, arrival.local, 16)
            bytes = arrival.bytes
            if self.slots.keep(number, arrival.bytes, arrival.size):
                bytes = self.slots.bytes(number)
            else:
                add(&self.row.unkept, 1)
            store(&self.row.in_flight, load(&self.row.in_flight) + 1)
            on_query(&self.budget)
            on_query(&self.rcode_budget)
            self._first(number, bytes)
            self.front.inbox.state.taken = arrival.place + 1
        self.front.inbox.state.taken = self.front.inbox.used
        self.flush()
        if self.distrusted:
            self._double()

    cdef void _first(self, int number, uint8_t *bytes) noexcept nogil:
        """Give a query its first server; `bytes` is the whole query."""
        cdef Query *query = self.slots.query(number)
        cdef int slot = self._pick(query, NO_SERVER), leg
        if slot == NO_SERVER or (self.when_all_down != TRY_ALL and not self._anyone()):
            if self.when_all_down == SAY_SERVFAIL and slot != NO_SERVER:
                self._say_servfail(number)
                return
            self._give_up(number, DROP_NO_SERVER)
            return
        leg = self._dispatch(number, slot, bytes)
        if leg == NONE:
            self._give_up(number, DROP_TABLE_FULL)
        elif self.retry_on and opcode_of(query.bytes) != OPCODE_UPDATE and self.slots.bytes(number) != NULL:
            self._enlist(leg)
            self.newest = number

    cdef int _pick(self, Query *query, int exclude) noexcept nogil:
        """The server for a query: `primary`, for what belongs to it, while it may be chosen; else the scheduler's."""
        if self.primary != NO_SERVER and belongs_to_primary(query.bytes, query.question_end):
            if self.scheduler.place[self.primary] != NO_SERVER and self.primary != exclude:
                return self.primary
            if only_primary(query.bytes):
                return NO_SERVER
        return self.scheduler.pick(query.key, exclude)

    cdef int _dispatch(self, int number, int slot, uint8_t *bytes) noexcept nogil:
        """Open a leg to a server and stage it; NONE when there is no room for one.

        `bytes` is the whole query, borrowed until the next `flush`.
        """
        cdef Query *query = self.slots.query(number)
        cdef int leg, tries, fixed_id = NONE
        cdef Server *server = &self.servers[slot]
        if server.batch != self.batch:
            server.batch = self.batch
            server.turn = server.turn + 1 if server.turn + 1 < server.sockets else 0
        if opcode_of(query.bytes) == OPCODE_UPDATE:
            fixed_id = query.client_id      # SIG(0) signs the id (RFC 2931 §3.1)
        leg = self.slots.open_leg(number, slot, socket_number(self.service, slot, server.turn), fixed_id)
        for tries in range(server.sockets):
            # All ids tried on this socket are in flight: another socket has its own.
            if leg != NONE:
                break
            leg = self.slots.open_leg(number, slot, socket_number(self.service, slot, tries), fixed_id)
        if leg == NONE:
            return NONE
        self.slots.leg(leg).sent_ns = self.now
        on_sent(&server.trust, self.now)
        self.scheduler.claim(slot)
        store(&self.rows[slot].in_flight, load(&self.rows[slot].in_flight) + 1)
        write16(bytes, self.slots.leg(leg).id)
        self.outbox.put(<int>self.slots.leg(leg).socket, leg, bytes, query.size)
        return leg

    cdef void _give_up(self, int number, int reason) noexcept nogil:
        """End a query that has no open leg without an answer."""
        add(&self.row.dropped[reason], 1)
        store(&self.row.in_flight, load(&self.row.in_flight) - 1)
        self.slots.release(number)

    cdef void flush(self) noexcept nogil:
        """Send what is staged, one sendmmsg per server; then give refused queries their second server."""
        cdef int socket = 0, size
        while True:
            size = self.outbox.take(&socket)
            if size:
                self._send(<uint32_t>socket, size)
            elif self.rescheduled_count:
                self._second_servers()
            elif self.rescues_due:
                self._rescue()
            else:
                return

    cdef void _second_servers(self) noexcept nogil:
        """Dispatch queries whose only leg failed, as many as the empty outbox holds.

        One that has had both its servers ends here, for others shall not meet it; unless nobody else is trusted: then
        it waits for one of the two to return.
        """
        cdef int number
        cdef Query *query
        while self.rescheduled_count and self.outbox.count < OUTBOX:
            self.rescheduled_count -= 1
            number = self.rescheduled[self.rescheduled_count]
            query = self.slots.query(number)
            if self.retry_on and self._ask_another(number):
                continue
            if self.when_all_down != TRY_ALL and not self._anyone():
                if self.when_all_down == SAY_SERVFAIL:
                    self._say_servfail(number)
                else:
                    self._give_up(number, DROP_NO_SERVER)
                continue
            if self.retry_on and self.slots.bytes(number) != NULL and not self._others(query):
                self.stranded = True
                continue
            self._give_up(number, DROP_UNSENT)

    cdef void _judge_killers(self) noexcept nogil:
        """Tell those over which both servers went away; forget those that a server outlived, and old ones."""
        cdef int index = 0, place, slot, gone
        cdef bint outlived
        cdef Killer *killer
        while index < self.killers.watching:
            killer = &self.killers.watched[index]
            gone, outlived = 0, self.now - killer.watched_ns >= <uint64_t>KILLER_WATCHED
            for place in range(LEGS):
                slot = killer.server[place]
                # What it answered right after may have been asked before.
                outlived = outlived or load(&self.rows[slot].seen_well_ns) > killer.sent_ns[place] + MOST_AFTER
                gone += (self.servers[slot].refused_ns > killer.sent_ns[place]
                         or self.servers[slot].verdict[<int>PROTO_UDP] == VERDICT_DOWN)
            if outlived or gone == LEGS:
                self.killers.settle(index, not outlived)        # another one takes its place
            else:
                index += 1

    cdef bint suspected(self, int slot) noexcept nogil:
        """Whether clients' queries speak against the server."""
        cdef Server *server = &self.servers[slot]
        return server.trust.suspected_since or server.trust.doubted_until or server.suspected_elsewhere

    cdef bint trusted(self, int slot) noexcept nogil:
        """Whether neither clients' queries nor its verdict speak against the server, over UDP; or the operator does."""
        cdef Server *server = &self.servers[slot]
        return server.ordered_up or (server.verdict[<int>PROTO_UDP] != VERDICT_DOWN and not self.suspected(slot))

    cdef bint trusted_tcp(self, int slot) noexcept nogil:
        """The same over TCP. Queries over UDP speak against it as long as nobody has told the two apart."""
        cdef Server *server = &self.servers[slot]
        if server.ordered_up or server.verdict[<int>PROTO_TCP] == VERDICT_DOWN:
            return server.ordered_up
        return not self.suspected(slot) or (
            server.verdict[<int>PROTO_TCP] == VERDICT_UP and server.verdict[<int>PROTO_UDP] >= VERDICT_DOWN)

    cdef bint _anyone(self) noexcept nogil:
        """Whether any server that may be chosen is trusted. By verdicts alone all are tried while none is up."""
        cdef int index
        if self.nobody_up and self.when_all_down != TRY_ALL:
            return False
        for index in range(self.present_count):
            if self.trusted(self.present[index]):
                return True
        return False

    cdef bint _others(self, Query *query) noexcept nogil:
        """Whether any server is trusted that this query did not go to."""
        cdef int index, slot
        for index in range(self.present_count):
            slot = self.present[index]
            if self.trusted(slot) and not (query.legs_used and slot == query.legs[0].server) and not (
                    query.legs_used == LEGS and slot == query.legs[1].server):
                return True
        return False

    cdef void _enlist(self, int leg) noexcept nogil:
        cdef Leg *record = self.slots.leg(leg)
        cdef Server *server = &self.servers[record.server]
        record.waits = True
        record.later = NONE
        record.earlier = server.last
        if server.last == NONE:
            server.first = leg
        else:
            self.slots.leg(server.last).later = leg
        server.last = leg

    cdef void _delist(self, int leg) noexcept nogil:
        cdef Leg *record = self.slots.leg(leg)
        cdef Server *server = &self.servers[record.server]
        record.waits = False
        if record.earlier == NONE:
            server.first = record.later
        else:
            self.slots.leg(record.earlier).later = record.later
        if record.later == NONE:
            server.last = record.earlier
        else:
            self.slots.leg(record.later).earlier = record.earlier

    cdef bint _ask_another(self, int number) noexcept nogil:
        """Send a query to a second server; False when it had two, cannot be sent again, or there is no other."""
        cdef Query *query = self.slots.query(number)
        cdef uint8_t *bytes = self.slots.bytes(number)
        cdef int slot
        if query.legs_used >= LEGS or query.legs_used == 0 or bytes == NULL or opcode_of(bytes) == OPCODE_UPDATE:
            return False
        slot = self._pick(query, query.legs[0].server)
        if slot == NO_SERVER or self._dispatch(number, slot, bytes) == NONE:
            return False
        add(&self.rows[slot].resends, 1)
        return True

    cdef void _rescue(self) noexcept nogil:
        """What waits for a server that refused goes to another one, as much as the empty outbox holds."""
        cdef int slot, leg
        cdef Server *server
        for slot in range(self.used):
            server = &self.servers[slot]
            while server.rescue and server.first != NONE:
                if self.outbox.count == OUTBOX:
                    return
                leg = server.first
                self._delist(leg)
                self._ask_another(leg // LEGS)
            server.rescue = False
        self.rescues_due = False

    cdef void refused(self, int slot) noexcept nogil:
        """A proven refusal, by whichever worker's query: it speaks for the server on all sockets."""
        cdef Server *server = &self.servers[slot]
        if self.suspend_on and on_refusal(&server.trust, self.now, self.retry_after_ns):
            self.stale = True
        if self.retry_on:
            server.rescue = self.rescues_due = True

    cdef void _double(self) noexcept nogil:
        """Send the newest query to a server that is not trusted too: its answer would lift that."""
        cdef int index, slot, leg
        cdef Query *query
        for index in range(self.present_count):
            slot = self.present[index]
            if not wants_double(&self.servers[slot].trust, self.now) or self.newest == NONE:
                continue
            query = self.slots.query(self.newest)
            if (query.state != QUERY_PENDING or query.service != self.service or query.legs_used != 1
                    or query.legs[0].state != LEG_SENT or query.legs[0].server == slot or query.answered):
                return
            if query.legs[0].waits:
                self._delist(self.newest * LEGS)
            leg = self._dispatch(self.newest, slot, self.slots.bytes(self.newest))
            if leg == NONE:
                return
            self.servers[slot].trust.doubled = self.now
            add(&self.rows[slot].resends, 1)
            self.flush()
            return

    cdef void look(self) noexcept nogil:
        """What time brings: second servers for what is overdue, and who is trusted."""
        cdef int slot, number
        cdef Server *server
        cdef Leg *leg
        for slot in range(self.used):
            server = &self.servers[slot]
            if self.suspend_on and judge(&server.trust, self.now, self.suspend_after_ns):
                self.stale = True
            if server.trust.suspected_since:
                store(&self.rows[slot].suspect_since_ns, server.trust.suspected_since)
                store(&self.rows[slot].suspect_until_ns, self.now + SUSPECTED_FOR)
            elif load(&self.rows[slot].suspect_until_ns):
                store(&self.rows[slot].suspect_until_ns, 0)
            while server.first != NONE:
                leg = self.slots.leg(server.first)
                if self.now < leg.sent_ns + retry_after(&server.trust, self.retry_after_ns):
                    break
                if self.outbox.count == OUTBOX:
                    self.flush()
                    continue
                number = server.first // LEGS
                self._delist(server.first)
                if not self._affords(slot) or not self._ask_another(number):
                    self.stranded = True
        slot = 0
        while slot < self.held_count:
            if self.now >= self.held[slot].due_ns:
                self._relay_held(self.held[slot].number)        # another one takes its place
            else:
                slot += 1
        if self.killers.watching:
            self._judge_killers()
        self.flush()
        self.look_back()

    cdef void look_back(self) noexcept nogil:
        """Send pending queries again: a few of the oldest while nobody is trusted, all when somebody has returned,
        those that found no second server when there is one."""
        cdef Recovery *recovery = &self.recovery
        cdef bint due = (self.when_all_down == TRY_ALL and self.present_count
                         and self.now - recovery.sent_ns >= <uint64_t>TRY_AGAIN)
        cdef int most
        if not self.retry_on:               # perhaps since a moment ago
            recovery.returned = NOBODY
            recovery.rounds = 0
            return
        if recovery.returned != NOBODY:
            begin(recovery, max(recovery.to, recovery.returned) if recovery.rounds else recovery.returned, self.now,
                  ROUNDS)
            recovery.returned = NOBODY
        elif due and self.stranded and not recovery.rounds and self._anyone():
            begin(recovery, NOBODY, self.now, 1)
            recovery.sent_ns = self.now
            self.stranded = False
        if recovery.rounds:                 # whatever the verdicts say: it has answered
            most = room(recovery, self.now)
            if most:
                on_resent(recovery, self._send_oldest(most), self.now)
        elif due and not self._anyone():
            begin(recovery, SOMEBODY, self.now + 1, 0)
            recovery.sent_ns = self.now
            self._send_oldest(TRIED_AT_ONCE)

    cdef bint full(self) noexcept nogil:
        """Whether the servers have as many queries as they take at once."""
        cdef int index, slot
        cdef int64_t spare = 0
        for index in range(self.present_count):
            slot = self.present[index]
            spare += takes(self.servers[slot].trust.srtt) - <int64_t>load(&self.rows[slot].in_flight)
        return self.present_count > 0 and spare <= 0

    cdef int _send_oldest(self, int most) noexcept nogil:
        """Send the oldest pending queries that did not go out in this round, on the legs they have, or to a server they
        had; about as many as that. Their number.

        Where others were trusted all the time, only what had gone to the one that returned, what has no leg at all, and
        what should have gone to a second server when there was none.
        """
        cdef Recovery *recovery = &self.recovery
        cdef int number = self.slots.oldest[self.service], next, sent = 0
        cdef uint64_t after = recovery.until_ns
        cdef bint lone
        cdef Query *query
        cdef uint8_t *bytes
        while number != NONE:
            query = self.slots.query(number)
            if query.received_ns >= recovery.before_ns or (sent >= most and query.received_ns > recovery.until_ns):
                break
            next = query.newer
            bytes = self.slots.bytes(number)
            if query.received_ns > after and query.state == QUERY_PENDING and not query.answered and bytes != NULL and (
                    opcode_of(bytes) != OPCODE_UPDATE):
                if self.outbox.count == OUTBOX:
                    self.flush()
                lone = query.legs[0].state == LEG_FREE and query.legs[1].state == LEG_FREE
                if lone or recovery.to == SOMEBODY or (recovery.to and self._went_to_returned(query)):
                    sent += 1
                    self.stranded = self.stranded or lone
                    self._send_once_more(number, query, bytes)
                elif query.legs_used == 1 and self._overdue(query):
                    if self._may_ask_another(query) and self._ask_another(number):
                        sent += 1
                    elif recovery.to and not self._others(query):      # it did not fit among those sent again
                        sent += 1
                        self._repeat(number, 0, bytes)
                    else:
                        self.stranded = True
            recovery.until_ns = max(recovery.until_ns, query.received_ns)
            number = next
        self.flush()
        return sent

    cdef bint _affords(self, int slot) noexcept nogil:
        """Whether what waits for that server may go to a second one: within the budget, unless it is not trusted."""
        return not self.trusted(slot) or spend(&self.budget, self.now)

    cdef bint _overdue(self, Query *query) noexcept nogil:
        return self.now - query.received_ns >= retry_after(&self.servers[query.legs[0].server].trust,
                                                           self.retry_after_ns)

    cdef bint _may_ask_another(self, Query *query) noexcept nogil:
        """As in `look`; but a server that has said nothing at all for long, while another is back, needs no rescues to
        be none to wait for."""
        cdef int slot = query.legs[0].server
        cdef Trust *trust = &self.servers[slot].trust
        return self.retry_on and self._others(query) and (
            self._affords(slot)
            or (self.suspend_on and trust.silent_since != 0 and self.now - trust.silent_since >= self.suspend_after_ns))

    cdef bint _went_to_returned(self, Query *query) noexcept nogil:
        cdef int place
        for place in range(query.legs_used):
            if query.received_ns < self.servers[query.legs[place].server].trust.returned:
                return True
        return False

    cdef void _send_once_more(self, int number, Query *query, uint8_t *bytes) noexcept nogil:
        """Send a pending query to a trusted server it had, else to a second one, else in turns to those it had."""
        cdef int place
        for place in range(query.legs_used):
            if self.trusted(query.legs[place].server) and (
                    query.received_ns < self.servers[query.legs[place].server].trust.returned):
                self._repeat(number, place, bytes)
                return
        if self._ask_another(number) or query.legs_used == 0:
            return
        self._repeat(number, <int>(number + self.now // TRY_AGAIN) % query.legs_used, bytes)

    cdef void _repeat(self, int number, int place, uint8_t *bytes) noexcept nogil:
        """Send a query once more to the server of its leg at `place`, on that leg if it is open still."""
        cdef Query *query = self.slots.query(number)
        cdef int slot = query.legs[place].server, used = query.legs_used
        if query.legs[place].state != LEG_FREE:
            query.legs[place].again = True
            write16(query.bytes, query.legs[place].id)
            self.outbox.put(<int>query.legs[place].socket, number * LEGS + place, self.slots.bytes(number), query.size)
        elif self.servers[slot].sockets == 0:
            return
        else:
            query.legs_used = place
            if self._dispatch(number, slot, bytes) == NONE:
                query.legs_used = used
                return
            query.legs_used = used
        add(&self.rows[slot].resends, 1)

    cdef void _say_servfail(self, int number) noexcept nogil:
        """Answer a query that nobody could be asked, or nobody answered, and end it."""
        cdef Query *query = self.slots.query(number)
        cdef int size = write_error(query.bytes, query.bytes, query.size if query.size < KEPT_BYTES else KEPT_BYTES,
                                    query.question_end, RCODE_WIRE_SERVFAIL)
        self.front.answer(query, query.bytes, size)
        self.front.flush()
        store(&self.row.in_flight, load(&self.row.in_flight) - 1)
        self.slots.release(number)

    cdef void _send(self, uint32_t socket, int size) noexcept nogil:
        """Send the group that the outbox has ready over one socket toward one server."""
        cdef int slot = socket // MAX_SOCKETS % MAX_SERVERS
        cdef int at = 0, sent, error, failures = 0, index, descriptor = self._descriptor(socket)
        cdef uint64_t total = 0
        cdef RowServer *row = &self.rows[slot]
        cdef int *tags = self.outbox.tags
        while at < size:
            sent = sendmmsg(descriptor, self.outbox.ready + at, size - at, MSG_DONTWAIT)
            if sent > 0:
                for index in range(at, at + sent):
                    # A leg that is sent once more may have been refused meanwhile (`read_errors`): it stays closed.
                    if self.slots.leg(tags[index]).state != LEG_FREE:
                        self.slots.leg(tags[index]).state = LEG_SENT
                    total += self.outbox.ready[index].msg_hdr.msg_iov.iov_len
                add(&row.queries, sent)
                at += sent
                failures = 0
                continue
            error = errno
            if error == EINTR:
                continue
            if error == EAGAIN or error == ENOBUFS or error == ENOMEM:
                for index in range(at, size):
                    self._wait(tags[index])
                break
            self.read_errors(socket)
            failures += 1
            if failures < 2:
                continue
            # The kernel refuses this one for good. Too long: its own fault. Anything else would meet the rest too.
            add(&row.refusals, 1)
            self._fail(tags[at])
            at += 1
            failures = 0
            if error != EMSGSIZE:
                self._reopen(socket)
                self.refused(slot)
                for index in range(at, size):
                    self._fail(tags[index])
                break
        add(&row.bytes_out, total)

    cdef void _reopen(self, uint32_t socket) noexcept nogil:
        """Connect again, over the route and from the address of now: routes and addresses change under a socket.

        Only a socket that is disconnected first lets the kernel choose its source address anew (udp(7)).
        """
        cdef Server *server = &self.servers[socket // MAX_SOCKETS % MAX_SERVERS]
        cdef int descriptor = self._descriptor(socket)
        cdef sockaddr nobody
        nobody.sa_family = AF_UNSPEC
        if server.peer_size:
            c_connect(descriptor, &nobody, sizeof(sockaddr))
            c_connect(descriptor, <sockaddr *>&server.peer, server.peer_size)

    def take_scheduler(self, Scheduler scheduler):
        """Choose by another rule from now on; what is in flight stays counted."""
        scheduler.succeed(self.scheduler)
        self.scheduler = scheduler

    @property
    def scheduler_name(self):
        return self.scheduler.name

    cdef void _wait(self, int leg) noexcept nogil:
        """The kernel takes no more now: `retry` sends it when there is room. Only kept bytes can wait."""
        if self.slots.leg(leg).state == LEG_FREE:
            return
        if self.slots.bytes(leg // LEGS) == NULL:
            self._close(leg)
            self._give_up(leg // LEGS, DROP_BACKLOG_FULL)
        else:
            self.waiting += 1

    cdef void _close(self, int leg) noexcept nogil:
        cdef int slot = self.slots.leg(leg).server
        if self.slots.leg(leg).waits:
            self._delist(leg)
        self.slots.close_leg(leg)
        self.scheduler.release(slot)
        check(load(&self.rows[slot].in_flight) > 0)
        store(&self.rows[slot].in_flight, load(&self.rows[slot].in_flight) - 1)

    cdef void _fail(self, int leg) noexcept nogil:
        """This leg is lost; unless the other one is still out, its query is due for another server."""
        cdef int number = leg // LEGS
        cdef Query *query = self.slots.query(number)
        if query.legs[leg % LEGS].state == LEG_FREE:
            return
        self._close(leg)
        if query.legs[0].state != LEG_FREE or query.legs[1].state != LEG_FREE:
            return
        if query.answered:
            if query.state == QUERY_ANSWERED:
                self.slots.release(number)
            return
        if query.held != NONE:
            self._relay_held(number)
            return
        if self.rescheduled_count < RESCHEDULED:
            self.rescheduled[self.rescheduled_count] = number
            self.rescheduled_count += 1
        else:
            self._give_up(number, DROP_UNSENT)

    cdef int receive(self, uint32_t socket) noexcept nogil:
        """Take answers from one socket until it is empty or the box is full; relays what matches. Their number."""
        cdef int first = self.inbox.used, got, index, descriptor = self._descriptor(socket)
        if first == ANSWERS:
            self.finish_answers()
            first = 0
        got = self.inbox.receive(descriptor, ANSWERS)
        if got < 0:
            if got == -EAGAIN or got == -EINTR:
                return 0
            # The pending error of a refusal: it was consumed by this call, the queue tells which query it was.
            self.read_errors(socket)
            got = self.inbox.receive(descriptor, ANSWERS)
            if got < 0:
                return 0
        for index in range(first, first + got):
            self._take(socket, self.inbox.bytes(index), self.inbox.messages[index].msg_len)
        return got

    cdef void finish_answers(self) noexcept nogil:
        """Send the answers on, release what they answer, and empty the box they lie in."""
        cdef int index
        cdef Query *query
        self.front.flush()
        for index in range(self.answered_count):
            query = self.slots.query(self.answered[index])
            if query.legs[0].state == LEG_FREE and query.legs[1].state == LEG_FREE:
                self.slots.release(self.answered[index])
            else:
                query.state = QUERY_ANSWERED    # a silent server's leg stays counted, its id taken
        self.answered_count = 0
        self.inbox.reset()

    cdef void _take(self, uint32_t socket, uint8_t *bytes, int size) noexcept nogil:
        cdef int slot = socket // MAX_SOCKETS % MAX_SERVERS
        cdef RowServer *row = &self.rows[slot]
        cdef Trust *trust = &self.servers[slot].trust
        cdef int leg, other, rcode, bucket = 0
        cdef bint nobody = False        # was trusted
        cdef uint64_t latency, srtt, returned
        cdef uint64_t *bounds = latency_bounds_ns()
        cdef Query *query
        cdef uint16_t id
        if size < HEADER_BYTES:
            add(&row.ignored[<int>IGNORE_SHORT], 1)
            return
        if not is_response(bytes):
            add(&row.ignored[<int>IGNORE_NOT_RESPONSE], 1)
            return
        id = read16(bytes)
        leg = self.slots.find(socket, id)
        if leg == NONE:
            add(&row.ignored[<int>IGNORE_LATE if self.slots.was_late(socket, id) else <int>IGNORE_UNKNOWN_ID], 1)
            return
        query = self.slots.query(leg // LEGS)
        if not answers_question(bytes, size, query.bytes, query.question_end):
            add(&row.ignored[<int>IGNORE_WRONG_QUESTION], 1)
            return
        rcode = rcode_of(bytes)
        add(&row.answers[rcode if rcode < <int>RCODE_OTHER else <int>RCODE_OTHER], 1)
        add(&row.bytes_in, size)
        latency = self.now - query.legs[leg % LEGS].sent_ns if self.now > query.legs[leg % LEGS].sent_ns else 0
        while latency > bounds[bucket]:
            bucket += 1
        add(&row.latency[bucket], 1)
        add(&row.latency_sum_ns, latency)
        srtt = trust.srtt               # before this one, which may have waited for the server's return
        if query.legs_used == 1 and not query.legs[leg % LEGS].again:
            sample(trust, latency)
        store(&row.seen_well_ns, self.now)
        self.servers[slot].suspected_elsewhere = False
        returned = trust.returned
        if on_answer(trust, self.now):
            self.stale = True
            nobody = self.distrusted == self.present_count
        if self.retry_on and trust.returned != returned:
            on_return(&self.recovery, SOMEBODY if nobody else ONE_OF_MANY, srtt)
        self._close(leg)
        if query.answered:
            if query.state == QUERY_ANSWERED and self.slots.leg(leg ^ 1).state == LEG_FREE:
                self.slots.release(leg // LEGS)
            return
        if self.rcodes >> rcode & 1 and self._hold(leg, bytes, size):
            return
        if query.held != NONE:
            self._release_held(query)
        on_recovered(&self.recovery, query.received_ns)
        self.front.answer(query, bytes, size)
        query.answered = True
        other = leg ^ 1
        if self.slots.leg(other).state != LEG_FREE:
            if other % LEGS == 0:
                on_rescue(&self.servers[self.slots.leg(other).server].trust, query.key)
            if self.slots.leg(other).waits:
                self._delist(other)
        store(&self.row.in_flight, load(&self.row.in_flight) - 1)
        self.answered[self.answered_count] = leg // LEGS
        self.answered_count += 1

    cdef bint _hold(self, int leg, const uint8_t *bytes, int size) noexcept nogil:
        """Keep this answer until the query's other server has spoken, which is asked now unless it was; False: it is to
        be relayed now."""
        cdef int number = leg // LEGS, other = leg ^ 1
        cdef Query *query = self.slots.query(number)
        cdef Held *held
        if (query.held != NONE or size > HELD_BYTES or self.held_count == HELD_MOST
                or self.outbox.count == OUTBOX):
            return False                # one that both its servers doubt is answered, even if a leg went out again
        if query.legs_used == 1 and spend(&self.rcode_budget, self.now):
            self._ask_another(number)
        if self.slots.leg(other).state == LEG_FREE:
            return False
        query.held = self.held_count
        held = &self.held[self.held_count]
        self.held_count += 1
        held.number = number
        held.size = size
        held.due_ns = self.now + retry_after(&self.servers[self.slots.leg(other).server].trust, self.retry_after_ns)
        memcpy(held.bytes, bytes, size)
        return True

    cdef void _release_held(self, Query *query) noexcept nogil:
        """The last one takes its place."""
        self.held_count -= 1
        if query.held != self.held_count:
            self.held[query.held] = self.held[self.held_count]
            self.slots.query(self.held[query.held].number).held = query.held
        query.held = NONE

    cdef void _relay_held(self, int number) noexcept nogil:
        """No better answer came."""
        cdef Query *query = self.slots.query(number)
        self.front.answer(query, self.held[query.held].bytes, self.held[query.held].size)
        self.front.flush()
        self._release_held(query)
        query.answered = True
        store(&self.row.in_flight, load(&self.row.in_flight) - 1)
        if query.legs[0].state == LEG_FREE and query.legs[1].state == LEG_FREE:
            self.slots.release(number)
            return
        if query.legs[0].state != LEG_FREE and query.legs[0].waits:
            self._delist(number * LEGS)
        query.state = QUERY_ANSWERED

    cdef void read_errors(self, uint32_t socket) noexcept nogil:
        """Empty a socket's error queue. An error counts only if it quotes a query in flight on this very socket."""
        cdef Returned returned
        cdef int leg, descriptor = self._descriptor(socket)
        cdef RowServer *row = &self.rows[socket // MAX_SOCKETS % MAX_SERVERS]
        cdef Query *query
        for _ in range(ERRORS_PER_LOOK):
            if not read_error(descriptor, &returned):
                return
            if not returned.remote:
                continue                # our own kernel's word, which the failing call has told already
            leg = NONE
            if returned.size >= HEADER_BYTES:
                leg = self.slots.find(socket, read16(returned.bytes))
            if leg != NONE:
                query = self.slots.query(leg // LEGS)
                if (self.slots.leg(leg).state != LEG_SENT or returned.size < query.question_end
                        or (query.question_end and not same_question(returned.bytes, query.bytes, query.question_end))):
                    leg = NONE
            if leg == NONE:
                add(&row.forged_errors, 1)
                continue
            add(&row.refusals, 1)
            store(&row.refused_ns, self.now)
            self.servers[socket // MAX_SOCKETS % MAX_SERVERS].refused_ns = self.now
            self._fail(leg)
            self.refused(socket // MAX_SOCKETS % MAX_SERVERS)

    cdef int _descriptor(self, uint32_t socket) noexcept nogil:
        check(<int>(socket % MAX_SOCKETS) < self.servers[socket // MAX_SOCKETS % MAX_SERVERS].sockets)
        return self.servers[socket // MAX_SOCKETS % MAX_SERVERS].descriptor[socket % MAX_SOCKETS]

    cdef void expire(self) noexcept nogil:
        """Give up what is older than the timeout. Queries lie in order of arrival, so only the oldest are looked at."""
        cdef int number, leg, silent
        cdef Query *query
        while True:
            number = self.slots.oldest[self.service]
            if number == NONE:
                return
            query = self.slots.query(number)
            if self.now < query.received_ns + self.timeout_ns:
                return
            silent = 0
            for leg in range(number * LEGS, number * LEGS + LEGS):
                if self.slots.leg(leg).state == LEG_FREE:
                    continue
                silent += 1
                add(&self.rows[self.slots.leg(leg).server].timeouts, 1)
                self.slots.remember(leg)
                self._close(leg)
            if query.answered:
                self.slots.release(number)
                continue
            if query.held != NONE:
                self._relay_held(number)
                continue
            if silent == LEGS:
                self.killers.watch(query, self.now)
            if self.when_all_down == TRY_ALL and self.present_count and not self._anyone():
                self._say_servfail(number)
                continue
            add(&self.row.timeouts, 1)
            store(&self.row.in_flight, load(&self.row.in_flight) - 1)
            self.slots.release(number)

    cdef void retry(self) noexcept nogil:
        """Send the legs that the kernel did not take, as many as the outbox holds."""
        cdef int number = self.slots.oldest[self.service], leg
        if self.waiting == 0:
            return
        self.waiting = 0
        while number != NONE:
            for leg in range(number * LEGS, number * LEGS + LEGS):
                if self.slots.leg(leg).state == LEG_WAITING:
                    if self.outbox.count == OUTBOX:
                        self.waiting = 1
                        break
                    self.outbox.put(<int>self.slots.leg(leg).socket, leg, self.slots.bytes(number),
                                    self.slots.query(number).size)
            if self.waiting:
                break
            number = self.slots.query(number).newer
        self.flush()
