"""The verdicts: who can serve, over UDP and over TCP, as the process that probes the servers has found.

One process writes them (the one with the right `verdicts`), everybody else reads. They outlive that process: the
supervisor owns the memory, a successor goes on from what stands there. A verdict speaks of one server, by its
identity, never of the next one in the same slot. While the heartbeat is older than STALE_NS nobody has a verdict, and
every server counts as up. Layout: layout.pxd.
"""

from typing import NamedTuple

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from balancer.table.layout cimport (
    LAYOUT_VERSION, MAX_SERVERS, MAX_SERVICES, PROTOS, REASON_BYTES, VERDICT_SPARED, VERDICT_UNKNOWN, HealthHeader,
    HealthServer, HealthVerdict, load, load_acquire, store, store_release,
)

cdef enum:
    VERDICTS_MAGIC = 0x6e733776     # "ns7v"
    MOST_TRIES = 1000               # of a reader that meets a writer

cdef uint64_t STALE_NS = 10_000_000_000

UNKNOWN, UP, DOWN, SPARED = "unknown", "up", "down", "spared"
WORDS = (UNKNOWN, UP, DOWN, SPARED)
PROTOCOLS = ("udp", "tcp")

assert len(WORDS) == VERDICT_SPARED + 1 and len(PROTOCOLS) == PROTOS


class Found(NamedTuple):
    """What is known of a server over one protocol. Times are CLOCK_MONOTONIC nanoseconds, 0: never.

    verdict: "up"; "down"; "spared", which is down but chosen all the same, for too few are up; "unknown", which counts
    as up. since_ns: when that began. returned_ns: when it last came back from being down. probed_ns: end of the newest
    probe. latency_ns: of the newest probe that was answered. reason: why it is, or was last, down.
    """

    verdict: str = UNKNOWN
    since_ns: int = 0
    returned_ns: int = 0
    probed_ns: int = 0
    latency_ns: int = 0
    reason: str = ""


def verdicts_size():
    """Bytes of the verdicts' region."""
    return sizeof(HealthHeader) + MAX_SERVICES * MAX_SERVERS * sizeof(HealthServer)


cdef class Verdicts(Region):
    """Every server's verdicts. Writer: one process; changes take effect for the workers with `publish`."""

    def __init__(self, int descriptor, bint writable=False, bint create=False):
        self.header = <HealthHeader *>self.base
        self.entries = <HealthServer *>(self.base + sizeof(HealthHeader))
        if create:
            self._own()
            self.header.magic = VERDICTS_MAGIC
            self.header.version = LAYOUT_VERSION
            self.header.size = self.size
            self.header.services = MAX_SERVICES
        self._verify("verdicts", <uint64_t *>self.base, VERDICTS_MAGIC, verdicts_size())

    @property
    def heartbeat_ns(self):
        return load(&self.header.heartbeat_ns)

    def beat(self, uint64_t now_ns):
        """The writer is alive (CLOCK_MONOTONIC)."""
        self._own()
        store(&self.header.heartbeat_ns, now_ns)

    def publish(self):
        """Let the workers see the verdicts that were written before."""
        self._own()
        store_release(&self.header.generation, self.header.generation + 1)

    def write(self, int service, int slot, uint64_t identity, int proto, found):
        """What was found of the server `identity` in this slot over PROTOCOLS[proto]; another one's is forgotten."""
        self._own()
        cdef HealthServer *entry = self._entry(service, slot)
        cdef HealthVerdict *at = &entry.of[proto]
        cdef bytes raw = found.reason.encode("ascii", "replace")[:<int>REASON_BYTES - 1]
        cdef int index
        store_release(&entry.changes, entry.changes | 1)
        if entry.identity != identity:
            memset(entry.of, 0, sizeof(entry.of))
            store(&entry.identity, identity)
        store(&at.since_ns, found.since_ns)
        store(&at.returned_ns, found.returned_ns)
        store(&at.probed_ns, found.probed_ns)
        store(&at.latency_ns, found.latency_ns)
        store(&at.verdict, WORDS.index(found.verdict))
        memset(at.reason, 0, REASON_BYTES)
        for index in range(len(raw)):
            at.reason[index] = <uint8_t>raw[index]
        store_release(&entry.changes, entry.changes + 1)

    def read(self, int service, int slot, uint64_t identity, uint64_t now_ns):
        """A `Found` per protocol of the server `identity`; unknown, with its last times, while the heartbeat is old."""
        cdef HealthServer *entry = self._entry(service, slot)
        cdef uint64_t before
        cdef int _tries
        found = None
        for _tries in range(MOST_TRIES):
            before = load_acquire(&entry.changes)
            if load(&entry.identity) != identity:
                return (Found(), Found())
            found = (_found(&entry.of[0]), _found(&entry.of[1]))
            if before % 2 == 0 and load_acquire(&entry.changes) == before:
                break
        if self.fresh(now_ns):
            return found
        return tuple(each._replace(verdict=UNKNOWN, since_ns=0) for each in found)

    cdef bint fresh(self, uint64_t now_ns) noexcept nogil:
        """Whether the verdicts count."""
        cdef uint64_t heartbeat = load(&self.header.heartbeat_ns)
        return heartbeat != 0 and (now_ns <= heartbeat or now_ns - heartbeat <= STALE_NS)

    cdef int verdict(self, int service, int slot, uint64_t identity, int proto) noexcept nogil:
        """The verdict on a server by itself, as long as they count."""
        cdef HealthServer *entry = &self.entries[service * MAX_SERVERS + slot]
        cdef uint64_t verdict = load(&entry.of[proto].verdict)
        if load(&entry.identity) != identity or verdict > VERDICT_SPARED:
            return VERDICT_UNKNOWN
        return <int>verdict

    cdef HealthServer *_entry(self, int service, int slot) except NULL:
        if not (0 <= service < MAX_SERVICES and 0 <= slot < MAX_SERVERS):
            raise IndexError(f"service {service}, server slot {slot}")
        return &self.entries[service * MAX_SERVERS + slot]


cdef object _found(HealthVerdict *at):
    cdef uint64_t verdict = load(&at.verdict)
    reason = (<bytes>at.reason[:REASON_BYTES]).split(b"\0", 1)[0].decode("ascii", "replace")
    return Found(WORDS[verdict] if verdict <= VERDICT_SPARED else UNKNOWN, load(&at.since_ns), load(&at.returned_ns),
                 load(&at.probed_ns), load(&at.latency_ns), reason)
