"""The data path of one worker: one epoll set over all UDP sockets and TCP's own set. Runs in a worker.

Only the epoll descriptor is given to the event loop (`fileno`, `on_readable`): uvloop drops a reader whose
descriptor reports EPOLLERR, as a connected UDP socket does when a server refuses; here that is an event like any
other. One Python call per wake; within it answers come before queries and those before a bounded piece of TCP, and
the number of rounds is bounded, so that transfers leave UDP its turns, and both of them timers and signals.

A wake-up that serves one datagram costs more than the datagram: at 20,000 queries per second each query and each
answer would wake this process, and this process its servers. So while traffic is dense, rounds are NAP_NS apart and
serve several, as a network card moderates its interrupts; whoever asks at a leisurely rate never meets a nap.

The worker owns nothing: sockets, table and slots are made by the supervisor and handed in, so that a successor can
go on with them.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from balancer.schedule import create

from balancer.datapath.admission cimport Admission
from balancer.datapath.back cimport MAX_SOCKETS, Back, Server, WhenAllDown, socket_number
from balancer.datapath.front cimport Front
from balancer.datapath.query cimport Slots
from balancer.datapath.relay cimport Relay
from balancer.datapath.retry cimport MILLISECOND, RCODE_PERCENT, RCODES_PER_SECOND, RETRIES_PER_SECOND
from balancer.datapath.tcp cimport TCP_EVENTS, Tcp
from balancer.datapath.syscalls cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLIN, c_close, epoll_create1, epoll_ctl, epoll_event,
    epoll_wait, exact_naps, monotonic_ns, nap,
)
from balancer.schedule.base cimport NO_SERVER
from balancer.table.layout cimport (
    MAX_SERVERS, MAX_SERVICES, PROTO_TCP, PROTO_UDP, PROTOS, VERDICT_DOWN, VERDICT_UNKNOWN, VERDICT_UP, ConfigService,
    HealthServer, RowServer, TcpRowServer, load, load_acquire, store,
)
from balancer.table.table cimport ConfigTable, Row
from balancer.table.verdicts cimport Verdicts

cdef enum:
    EVENTS = 256
    ROUNDS = 8                          # epoll_waits per wake
    DENSE_NS = 100_000                  # woken again within that long: traffic is dense
    NAP_NS = 60_000                     # rest between two rounds while traffic is dense
    FULL_ROUND = 64                     # datagrams, and TCP events, that make a round worth its wake-up
    LONE_ROUND = 4                      # fewer: the next look would find nothing
    ADOPTED_ROUNDS = 512                # of answers that wait for a successor
    WARMING = 500 * MILLISECOND         # a worker's first queries may have waited in the kernel for long, thousands
    SUSPEND_AFTER = 200 * MILLISECOND   # silence, while others answer, that makes a server suspected
    LISTENER = 1 << 30                  # marks a listener's number in an event
    TCP = 1 << 29                       # the event of TCP's set

IDLE_SWEEP = 0.05                       # seconds between sweeps
PENDING_SWEEP = 0.01                    # while queries are in flight: second servers are asked that exactly
BUSY_SWEEP = 0.001                      # while the kernel would not take everything
TCP_SWEEP_NS = 45_000_000               # between two sweeps over all connections
RAMP_STEP_NS = 100_000_000              # between two steps of a slow start
RAMP_SCALE = 64                         # weights are counted in 64ths, always, so that turns keep their length
RAMP_START = 0.1                        # of its weight is what a server that comes back takes at first


cdef class DataPath:
    """open, receive, handle, send, sweep, close for all services of one worker.

    config: read-only descriptor of the configuration; row, slots: this worker's own memory; others: read-only
    descriptors of the other workers' rows; verdicts: read-only descriptor of the verdicts, None: there are none. The
    memory stays mapped, the descriptors may be closed.
    """

    cdef ConfigTable config
    cdef Verdicts verdicts
    cdef uint64_t heeded                # generation of the verdicts that is obeyed; 0: none count
    cdef Row row
    cdef Slots slots
    cdef Front front
    cdef readonly Tcp tcp               # DNS over TCP: an epoll set within the one here
    cdef list backs                     # by service number; None where there is none
    cdef list active                    # those that are there
    cdef list others
    cdef int epoll
    cdef uint64_t rested_ns             # when the last wake ended
    cdef uint64_t warm_until_ns         # until then what waited in the listeners is read at the pace of the answers
    cdef uint64_t tcp_swept_ns
    cdef uint64_t ramped_ns             # when a slow start made its last step; 0: none is under way
    cdef set removed                    # (service, slot) to close when nothing is in flight there
    cdef list closed                    # pairs closed since the last `take_closed`
    cdef epoll_event events[EVENTS]

    def __cinit__(self, int config, int row, int slots, others=(), verdicts=None):
        self.epoll = -1
        self.config = ConfigTable(config)
        self.verdicts = None if verdicts is None else Verdicts(verdicts)
        self.row = Row(row, True)
        self.slots = Slots(slots, True, MAX_SERVICES)
        self.watch_others(others)
        self.front = Front(self.slots)
        self.front.rows = self.row.service_rows
        self.backs = [None] * MAX_SERVICES
        self.active = []
        self.removed = set()
        self.closed = []
        self.front.admissions = [Admission((), (), (), ())] * MAX_SERVICES
        cdef Back back
        for service in self.config.services:
            back = Back(service, self.slots, self.front, create(self.config.scheduler(service)),
                        self.config.udp_timeout_ns(service))
            back.row = &self.row.service_rows[<int>service]
            back.rows = &self.row.server_rows[<int>service * MAX_SERVERS]
            self.backs[service] = back
            self.active.append(back)
        exact_naps()
        self.tcp = Tcp(self.row, self.active)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError("epoll_create1 failed")
        self._watch(self.tcp.fileno(), TCP)

    def __dealloc__(self):
        self.close()

    def close(self):
        """Stop polling. Sockets, table and slots stay as they are: they are the supervisor's."""
        if self.epoll >= 0:
            c_close(self.epoll)
            self.epoll = -1

    def fileno(self):
        """The descriptor that is readable when `on_readable` has something to do."""
        return self.epoll

    def watch_others(self, others):
        """Read-only descriptors of the rows whose in-flight queries count as load beside our own."""
        self.others = [Row(other) for other in others]

    def admit(self, int service, query, transfer, update, notify):
        """The access lists of a service, each as the pairs that `admission.ranges` returns."""
        self.front.admissions[service] = Admission(query, transfer, update, notify)
        self.tcp.admit(service, self.front.admissions[service])

    def open_listener(self, int service, int descriptor):
        """Take queries of `service` from a bound socket."""
        self._watch(descriptor, <uint64_t>LISTENER | self.front.open(descriptor, service))

    def open_server(self, int service, int slot, descriptors):
        """Use these connected sockets toward a server; the slot has none."""
        cdef Back back = self.backs[service]
        back.open(slot, descriptors)
        for place, descriptor in enumerate(descriptors):
            self._watch(descriptor, socket_number(service, slot, place))

    cdef int _close_removed(self) except -1:
        """Close the sockets toward removed servers that have nothing in flight any more."""
        cdef Back back
        for service, slot in sorted(self.removed):
            back = self.backs[service]
            if load(&back.rows[<int>slot].in_flight):
                continue
            for place in range(back.servers[<int>slot].sockets):
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, back.servers[<int>slot].descriptor[<int>place], NULL)
            back.close(slot)
            self.removed.remove((service, slot))
            self.closed.append((service, slot))
        return 0

    def take_closed(self):
        """Pairs (service, slot) whose sockets are not used any more: the caller closes its descriptors."""
        closed, self.closed = self.closed, []
        return closed

    cdef int _watch(self, int descriptor, uint64_t data) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = data
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, descriptor, &event) < 0:
            raise OSError(f"cannot poll descriptor {descriptor}")
        return 0

    def adopt(self):
        """Go on with the queries that a predecessor left: in the slots, and received but not claimed; their number.

        First the answers that wait in the sockets are relayed, then what is still pending is sent once more.
        """
        cdef Back back
        cdef int count, unclaimed
        count = self.slots.adopt()
        for back in self.active:
            back.adopt()
        self.tcp.adopt()
        self._heed(monotonic_ns())
        self.refresh()
        if count:
            for _ in range(ADOPTED_ROUNDS):
                if self._answers(epoll_wait(self.epoll, self.events, EVENTS, 0)) == 0:
                    break
            for back in self.active:
                back.now = monotonic_ns()
                back.send_again()
        unclaimed = self.front.recover()
        if unclaimed:
            back = <Back>self.backs[self.front.listeners[self.front.receiving].service]
            back.now = monotonic_ns()
            back.handle()
            self.front.flush()
        self.front.inbox.used = self.front.inbox.capacity
        self.front.inbox.reset()
        return count + unclaimed

    def refresh(self):
        """Obey the present configuration: usable servers, their weights, the rule, the timeout."""
        cdef Back back
        cdef uint64_t generation = self.config.generation, now = monotonic_ns()
        self.ramped_ns = 0
        for back in self.active:
            if back.scheduler_name != self.config.scheduler(back.service):
                back.take_scheduler(create(self.config.scheduler(back.service)))
            entries = self.config.servers(back.service)
            for entry in entries:
                back.servers[<int>entry.slot].ordered_up = entry.ordered == "up"
            usable = [entry for entry in entries if entry.takes_queries and back.is_open(entry.slot)]
            self._read_verdicts(back, usable)
            trusted = self._trusted(back, usable)
            weights = self._weighted(back, trusted, <int>PROTO_UDP, now)
            back.scheduler.rebuild(weights)
            self._choose_tcp(back, usable, weights, now)
            back.timeout_ns = self.config.udp_timeout_ns(back.service)
            self._set_retry(back)
            primary = self.config.primary(back.service)
            back.primary = NO_SERVER if primary is None else primary
            self.tcp.set_primary(back.service, primary)
            present = {entry.slot for entry in entries if entry.state == "present"}
            self.tcp.retire_absent(back.service, present)
            self.removed |= {(back.service, slot) for slot in range(MAX_SERVERS)
                             if slot not in present and back.is_open(slot)}
        self._close_removed()
        store(&self.row.header.generation_seen, generation)

    cdef int _read_verdicts(self, Back back, list usable) except -1:
        """What those who probe the servers say of them."""
        cdef Server *server
        cdef HealthServer *said
        cdef int proto
        back.nobody_up = len(usable) > 0
        for entry in usable:
            server = &back.servers[<int>entry.slot]
            for proto in range(<int>PROTOS):
                server.verdict[proto] = VERDICT_UNKNOWN
                if self.heeded:
                    server.verdict[proto] = self.verdicts.verdict(back.service, entry.slot, entry.identity, proto)
                if server.verdict[proto] == VERDICT_UP:
                    said = self.verdicts._entry(back.service, entry.slot)
                    server.returned_ns[proto] = load(&said.of[proto].returned_ns)
            if server.ordered_up or server.verdict[<int>PROTO_UDP] < VERDICT_DOWN:
                back.nobody_up = False
        return 0

    cdef list _weighted(self, Back back, list chosen, int proto, uint64_t now):
        """Pairs (slot, weight) as a scheduler wants them; who came back is still growing into its weight."""
        if not back.scheduler.ramps:
            return [(entry.slot, entry.weight) for entry in chosen]
        slow = self.config.slow_start_ns(back.service)
        if any(now - self._since(back, entry, proto) < slow for entry in chosen if self._since(back, entry, proto)):
            self.ramped_ns = now
        return [(entry.slot, _ramped(entry, self._since(back, entry, proto), now, slow)) for entry in chosen]

    cdef int _choose_tcp(self, Back back, list usable, list of_udp, uint64_t now) except -1:
        """TCP goes where UDP goes, unless verdicts tell them apart, or a server came back over one of them."""
        cdef Relay relay = <Relay>self.tcp.relays[back.service]
        chosen = self._enough(back, [entry for entry in usable if back.trusted_tcp(entry.slot)],
                              usable, <int>PROTO_TCP)
        weights = self._weighted(back, chosen, <int>PROTO_TCP, now)
        if weights == of_udp:
            relay.share()
            return 0
        if not relay.apart or relay.scheduler.name != back.scheduler.name:
            relay.part(create(back.scheduler.name))
        relay.scheduler.rebuild(weights)
        return 0

    cdef list _enough(self, Back back, list trusted, list usable, int proto):
        """The trusted ones; where they are too few those too that are only suspected; where nobody is, all."""
        least = load(&self.config.entry[back.service].min_alive)
        if len(trusted) >= least:
            return trusted
        allowed = [entry for entry in usable if entry.ordered == "up"
                   or back.servers[<int>entry.slot].verdict[proto] != VERDICT_DOWN]
        return allowed if trusted and len(allowed) >= least else usable

    cdef list _trusted(self, Back back, list usable):
        """Those of the usable servers that may be chosen over UDP."""
        back.used = back.present_count = 0
        for slot in range(MAX_SERVERS):
            if back.is_open(slot):
                back.used = slot + 1
        for entry in usable:
            back.present[back.present_count] = entry.slot
            back.present_count += 1
        back.distrusted = sum([back.suspected(entry.slot) for entry in usable])
        back.stale = False
        return self._enough(back, [entry for entry in usable if back.trusted(entry.slot)], usable, <int>PROTO_UDP)

    cdef object _since(self, Back back, entry, int proto):
        """When a server came, or came back; 0: it was there from the start."""
        cdef Server *server = &back.servers[<int>entry.slot]
        cdef Relay relay = <Relay>self.tcp.relays[back.service]
        over_tcp = relay.pool.targets[<int>entry.slot].returned_ns if proto == <int>PROTO_TCP else 0
        return max(entry.since_ns, server.trust.lifted, server.returned_ns[proto], over_tcp)

    cdef int _set_retry(self, Back back) except -1:
        cdef ConfigService *entry = &self.config.entry[back.service]
        back.retry_on = load(&entry.retry) != 0
        back.retry_after_ns = load(&entry.retry_after_ns)
        back.budget.share = load(&entry.retry_percent) / 100.0
        back.budget.per_second = RETRIES_PER_SECOND if back.budget.share else 0
        back.rcodes = load(&entry.retry_rcodes) if back.retry_on else 0
        back.rcode_budget.share = RCODE_PERCENT / 100.0
        back.rcode_budget.per_second = RCODES_PER_SECOND
        back.suspend_on = load(&entry.suspend) != 0
        back.suspend_after_ns = SUSPEND_AFTER
        back.when_all_down = <WhenAllDown>load(&entry.when_all_down)
        return 0

    cdef int _learn(self) except -1:
        """What the other workers know of the servers: a refusal, a suspicion, that one was heard again."""
        cdef Back back
        cdef Row other
        cdef RowServer *row
        cdef Server *server
        cdef int slot
        cdef TcpRowServer *tcp
        cdef Relay relay
        cdef uint64_t since, heard, failed, answered
        cdef bint suspected
        for back in self.active:
            for slot in range(back.used):
                server = &back.servers[slot]
                suspected = False
                since = failed = 0
                heard = load(&back.rows[slot].seen_well_ns)
                relay = <Relay>self.tcp.relays[back.service]
                answered = load(&relay.rows[slot].answered_ns)
                for other in self.others:
                    row = &other.server_rows[back.service * MAX_SERVERS + slot]
                    if load(&row.refused_ns) > server.refused_ns:
                        server.refused_ns = load(&row.refused_ns)
                        if server.refused_ns > load(&back.rows[slot].seen_well_ns):
                            back.refused(slot)
                    if load(&row.suspect_until_ns) > back.now:
                        since = max(since, load(&row.suspect_since_ns))
                    heard = max(heard, load(&row.seen_well_ns))
                    tcp = &other.tcp_server_rows[back.service * MAX_SERVERS + slot]
                    failed = max(failed, load(&tcp.failed_ns))
                    answered = max(answered, load(&tcp.answered_ns))
                if relay.pool.learn(slot, failed, answered):
                    back.stale = True
                suspected = back.suspend_on and since > heard
                if suspected != server.suspected_elsewhere:
                    server.suspected_elsewhere = suspected
                    back.stale = True
        return 0

    cdef int _heed(self, uint64_t now) except -1:
        """See whether those who probe the servers have said something new, or nothing for too long."""
        cdef Back back
        cdef uint64_t generation = 0
        if self.verdicts is not None and self.verdicts.fresh(now):
            generation = load_acquire(&self.verdicts.header.generation)
        if generation != self.heeded:
            self.heeded = generation
            for back in self.active:
                back.stale = True
        return 0

    cdef int _obey(self) except -1:
        """Choose only among servers that are trusted, when that has changed."""
        cdef Back back
        for back in self.active:
            if back.stale:
                self.refresh()
                return 0
        return 0

    def take_killers(self):
        """Queries over which two servers went away, each as (header and question, client's sockaddr)."""
        cdef Back back
        return [found for back in self.active for found in back.killers.take()]

    def drain(self):
        """Take what waits in the listening sockets now; True while there may be more."""
        cdef uint64_t before = 0, after = 0
        cdef Back back
        for back in self.active:
            before += load(&back.row.queries)
        self.on_readable()
        for back in self.active:
            after += load(&back.row.queries)
        return after != before

    def stop_reading(self):
        """Take no more queries; answers to those in flight are still relayed."""
        for number in range(self.front.listener_count):
            if self.front.listeners[<int>number].descriptor >= 0:
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.front.listeners[<int>number].descriptor, NULL)

    @property
    def in_flight(self):
        """Queries that are neither answered nor timed out."""
        return self.slots.in_use

    def on_readable(self):
        """Handle what has arrived. Called by the event loop."""
        cdef int count, handled
        cdef uint64_t now = monotonic_ns()
        cdef bint dense = now - self.rested_ns < <uint64_t>DENSE_NS
        for _ in range(ROUNDS):
            count = epoll_wait(self.epoll, self.events, EVENTS, 0)
            if count <= 0:
                break
            handled = self._answers(count)
            self._obey()
            handled += self._queries(count)
            if dense and handled < FULL_ROUND:
                nap(NAP_NS)
            elif handled < LONE_ROUND:
                break
        self.rested_ns = monotonic_ns()

    cdef int _answers(self, int count) except -1:
        """Relay what the servers said; the number of datagrams and errors."""
        cdef int index, got = 0
        cdef uint64_t data, now = monotonic_ns()
        cdef Back back = None
        for index in range(count):
            data = self.events[index].data.u64
            if data >= TCP:
                continue
            if back is None or <int>(data // (MAX_SERVERS * MAX_SOCKETS)) != back.service:
                if back is not None:
                    back.finish_answers()
                    back.flush()
                back = <Back>self.backs[data // (MAX_SERVERS * MAX_SOCKETS)]
                back.now = now
            if self.events[index].events & EPOLLERR:
                back.read_errors(<uint32_t>data)
                got += 1
            if self.events[index].events & EPOLLIN:
                got += back.receive(<uint32_t>data)
        if back is not None:
            back.finish_answers()
            back.flush()                # second servers for what was refused
            if back.recovery.rounds:
                back.look_back()
        return got

    cdef int _queries(self, int count) except -1:
        """Take what the clients ask, over UDP and then over TCP; the number of datagrams and TCP events."""
        cdef int index, number, got, total = 0
        cdef uint64_t now = monotonic_ns()
        cdef bint tcp = False, warming = now < self.warm_until_ns, full = False
        cdef Back back
        if self.others:
            self._observe()
        if self.warm_until_ns == 0:
            self.warm_until_ns = now + WARMING
            warming = True
        for index in range(count):
            if not self.events[index].data.u64 & LISTENER:
                tcp = tcp or self.events[index].data.u64 == TCP
                continue
            number = <int>(self.events[index].data.u64 & (LISTENER - 1))
            back = <Back>self.backs[self.front.listeners[number].service]
            if warming and back.full():
                full = True
                continue
            got = self.front.receive(number)
            if got > 0:
                total += got
                back.now = now
                back.handle()
                self.front.flush()      # refusals, which borrow the inbox
        if tcp:
            got = self.tcp.handle()
            total += got if got < TCP_EVENTS else FULL_ROUND
        if full:
            nap(NAP_NS)                 # for the answers that make room
        return total

    cdef int _observe(self) except -1:
        """What the other workers have in flight counts as load, as of now."""
        cdef Back back
        cdef Row other
        cdef int slot
        cdef int64_t total
        for back in self.active:
            for slot in range(<int>load(&self.config.entry[back.service].used)):
                total = 0
                for other in self.others:
                    total += load(&other.server_rows[back.service * MAX_SERVERS + slot].in_flight)
                back.scheduler.observe(slot, total)
        return 0

    def sweep(self):
        """What time brings: expiry, waiting datagrams, heartbeat. Returns the seconds until it is due again."""
        cdef Back back
        cdef uint64_t now = monotonic_ns()
        cdef bint busy = self.front.retry()
        if self.removed:
            self._close_removed()
        if self.ramped_ns and now - self.ramped_ns >= <uint64_t>RAMP_STEP_NS:
            self.refresh()
        cdef bint pending = self.slots.in_use > 0
        for back in self.active:
            back.now = now
        self._heed(now)
        if self.others:
            self._learn()
        for back in self.active:
            back.retry()
            back.look()
            back.expire()
            busy = busy or back.waiting or back.recovery.rounds
        self._obey()
        if now - self.tcp_swept_ns >= <uint64_t>TCP_SWEEP_NS:
            self.tcp_swept_ns = now
            self.tcp.sweep()
        else:
            self.tcp.look()
        pending = pending or self.tcp.pending()
        store(&self.row.header.heartbeat_ns, now)
        return BUSY_SWEEP if busy else PENDING_SWEEP if pending else IDLE_SWEEP


def _ramped(entry, since_ns, now_ns, slow_start_ns):
    """The weight in 64ths: that of a server that came back grows evenly, from a tenth to the whole."""
    age_ns = now_ns - since_ns
    part = RAMP_START + (1 - RAMP_START) * age_ns / slow_start_ns if since_ns and age_ns < slow_start_ns else 1
    return max(1, round(RAMP_SCALE * entry.weight * part))
