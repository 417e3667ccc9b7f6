"""Admission: which client may ask what. One function for UDP and every TCP message; runs in a worker.

Behind a proxy the servers see the director's address only, so their own access lists would admit everybody; the
director admits instead. Prefix lists become sorted ranges of 128-bit addresses (IPv4 as ::ffff:a.b.c.d), searched by
halving, so the length of a list hardly matters.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from balancer.datapath.syscalls cimport AF_INET, sockaddr, sockaddr_in, sockaddr_in6
from balancer.datapath.wire cimport OPCODE_NOTIFY, OPCODE_UPDATE, TYPE_AXFR, TYPE_IXFR, opcode_of, read16

MAPPED = 0xffff << 32               # ::ffff:0:0/96, RFC 4291 §2.5.5.2


def ranges(networks):
    """Prefixes (`ipaddress` networks) as sorted, disjoint pairs (first, last) of 128-bit numbers.

    An IPv6 prefix never stands for the IPv4 addresses mapped into it: "::/0" alone admits no IPv4 client.
    """
    mapped_end = MAPPED + 2**32 - 1
    spans = []
    for network in networks:
        base = MAPPED if network.version == 4 else 0
        first, last = base + int(network.network_address), base + int(network.broadcast_address)
        if network.version == 6 and first <= mapped_end and last >= MAPPED:
            spans += [pair for pair in ((first, MAPPED - 1), (mapped_end + 1, last)) if pair[0] <= pair[1]]
        else:
            spans.append((first, last))
    merged = []
    start = end = None
    for first, last in sorted(spans):
        if end is not None and first <= end + 1:
            end = max(end, last)
            continue
        if end is not None:
            merged.append((start, end))
        start, end = first, last
    return [*merged, (start, end)] if end is not None else merged


cdef uint64_t _word(const uint8_t *at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int index
    for index in range(8):
        value = value << 8 | at[index]
    return value


cdef class Prefixes:
    """A set of addresses from the pairs that `ranges` returns."""

    def __cinit__(self, pairs):
        self.count = len(pairs)
        self.ranges = <Range *>calloc(max(self.count, 1), sizeof(Range))
        if self.ranges == NULL:
            raise MemoryError(f"{self.count} prefixes")
        for index, (first, last) in enumerate(pairs):
            self.ranges[index].first = [first >> 64, first & 0xffffffffffffffff]
            self.ranges[index].last = [last >> 64, last & 0xffffffffffffffff]
        # All of IPv6 includes the mapped addresses, so one range from 0 to the end is everybody.
        self.everybody = self.count == 1 and pairs[0][0] == 0 and pairs[0][1] == 2**128 - 1

    def __dealloc__(self):
        free(self.ranges)

    cdef bint contain(self, uint64_t high, uint64_t low) noexcept nogil:
        cdef int least = 0, most = self.count - 1, middle
        cdef Range *span
        if self.everybody:
            return True
        while least <= most:
            middle = (least + most) // 2
            span = &self.ranges[middle]
            if high < span.first[0] or (high == span.first[0] and low < span.first[1]):
                most = middle - 1
            elif high > span.last[0] or (high == span.last[0] and low > span.last[1]):
                least = middle + 1
            else:
                return True
        return False

    def __contains__(self, address):
        """Whether an `ipaddress` address is in the set. For tests; the data path calls `contain`."""
        value = int(address) + (MAPPED if address.version == 4 else 0)
        return self.contain(value >> 64, value & 0xffffffffffffffff)


cdef class Admission:
    """The four lists of a service, each as the pairs that `ranges` returns."""

    def __cinit__(self, query, transfer, update, notify):
        self.query = Prefixes(query)
        self.transfer = Prefixes(transfer)
        self.update = Prefixes(update)
        self.notify = Prefixes(notify)

    cdef Verdict judge(self, const uint8_t *message, int question_end, const uint8_t *client) noexcept nogil:
        """What becomes of `message` (at least a header) from `client` (a sockaddr_in or sockaddr_in6)."""
        cdef uint64_t high = 0, low
        cdef int opcode = opcode_of(message), qtype = 0
        cdef bint admitted
        cdef const uint8_t *address
        if (<const sockaddr *>client).sa_family == AF_INET:
            address = <const uint8_t *>&(<const sockaddr_in *>client).sin_addr
            low = <uint64_t>0xffff << 32 | <uint64_t>address[0] << 24 | address[1] << 16 | address[2] << 8 | address[3]
        else:
            address = <const uint8_t *>&(<const sockaddr_in6 *>client).sin6_addr
            high = _word(address)
            low = _word(address + 8)
        if question_end:
            qtype = read16(message + question_end - 4)
        if opcode == OPCODE_UPDATE:
            admitted = self.update.contain(high, low)
        elif opcode == OPCODE_NOTIFY:
            admitted = self.notify.contain(high, low)
        elif qtype == TYPE_AXFR or qtype == TYPE_IXFR:
            admitted = self.transfer.contain(high, low)
        else:
            return ADMITTED if self.query.contain(high, low) else DROPPED
        if admitted:
            return ADMITTED
        return REFUSED if self.query.contain(high, low) else DROPPED
