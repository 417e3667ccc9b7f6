"""The side toward the clients: receive queries, judge them, send answers. Runs in a worker; picks no server.

A datagram becomes an `Arrival` or a counted drop. Answers leave from the socket the query came in on; on a wildcard
listener from the address that was asked (pktinfo). A client that cannot be sent to costs itself an answer and nobody
else: sending resumes after it. What the kernel does not take now waits in a bounded room until it does.
"""

import socket as _socket

from libc.errno cimport (
    EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EHOSTDOWN, EHOSTUNREACH, EINTR, EINVAL, EMSGSIZE, ENETDOWN,
    ENETUNREACH, ENOBUFS, ENOMEM, EPERM, errno,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from balancer.datapath.admission cimport ADMITTED, REFUSED, Admission, Verdict
from balancer.datapath.mmsg cimport CONTROL_BYTES, Inbox, Outbox
from balancer.datapath.query cimport BATCH, Query, Slots
from balancer.datapath.syscalls cimport (
    AF_INET, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6,
    IPV6_PKTINFO, MSG_DONTWAIT, MSG_TRUNC, cmsghdr, in6_pktinfo, in_pktinfo, iovec, msghdr, ntohl, ntohs, sendmmsg,
    sendmsg, sockaddr, sockaddr_in, sockaddr_in6,
)
from balancer.datapath.wire cimport HEADER_BYTES, RCODE_WIRE_REFUSED, is_response, question_end, write16
from balancer.table.layout cimport (
    DROP_BACKLOG_FULL, DROP_CLIENT_DENIED, DROP_CLIENT_ERROR, DROP_CLIENT_REFUSED_ADDRESS, DROP_CLIENT_TOO_LONG,
    DROP_CLIENT_UNREACHABLE, DROP_NOT_ADMITTED, DROP_RESPONSE, DROP_SHORT, DROP_SOURCE, DROP_TRUNCATED, Drop,
    RowService, add,
)

cdef enum:
    BACKLOG = 1024                      # answers that may wait for the kernel
    BACKLOG_BYTES = 4 << 20
    OUTBOX = 256
    NOT_COUNTED = 1                     # tag of a datagram that is no answer to a counted query


cdef Drop drop_of_errno(int error) noexcept nogil:
    """Why a client could not be sent to."""
    if error == EPERM or error == EACCES:
        return DROP_CLIENT_DENIED
    if error == ENETUNREACH or error == EHOSTUNREACH or error == ENETDOWN or error == EHOSTDOWN:
        return DROP_CLIENT_UNREACHABLE
    if error == EMSGSIZE:
        return DROP_CLIENT_TOO_LONG
    if error == EINVAL or error == EADDRNOTAVAIL or error == EAFNOSUPPORT:
        return DROP_CLIENT_REFUSED_ADDRESS
    return DROP_CLIENT_ERROR


cdef class Front:
    """The listening sockets of one worker. `rows` belongs to the worker's row, which outlives this object.

    The inbox lies in the memory of the slots, so that a successor finds what was received and not yet claimed.
    """

    def __cinit__(self, Slots slots):
        self.inbox = Inbox(BATCH, True, slots, slots.inbox)
        self.outbox = Outbox(OUTBOX)
        self.admissions = []
        self.backlog = <Late *>calloc(BACKLOG, sizeof(Late))
        if self.backlog == NULL:
            raise MemoryError("waiting room for answers")

    def __dealloc__(self):
        cdef int index
        for index in range(self.backlog_count):
            free(self.backlog[(self.backlog_first + index) % BACKLOG].bytes)
        free(self.backlog)

    def open(self, int descriptor, int service):
        """Listen on a bound socket; returns the listener's number. The descriptor stays the caller's."""
        cdef Listener *listener
        if self.listener_count == MAX_LISTENERS:
            raise ValueError(f"more than {MAX_LISTENERS} listeners")
        with _socket.socket(fileno=_dup(descriptor)) as bound:
            family = bound.family
            host, port = bound.getsockname()[:2]
        raw = _socket.inet_pton(family, host.split("%")[0])
        listener = &self.listeners[self.listener_count]
        memset(listener, 0, sizeof(Listener))
        listener.descriptor = descriptor
        listener.service = service
        listener.family = family
        listener.port = port
        listener.wildcard = not any(raw)
        for index, byte in enumerate(raw):
            listener.address[index] = byte
        self.listener_count += 1
        return self.listener_count - 1

    cdef int receive(self, int number) noexcept:
        """One batch from a listener into `arrivals`; the number of datagrams taken from the kernel, or -errno."""
        cdef Listener *listener = &self.listeners[number]
        cdef int got
        self.inbox.reset()
        self.arrival_count = 0
        self.receiving = number
        self.inbox.state.source = number
        got = self.inbox.receive(listener.descriptor, BATCH)
        if got > 0:
            self._filter(listener, <Admission>self.admissions[listener.service], &self.rows[listener.service])
        return got

    cdef int recover(self) noexcept:
        """What a predecessor received and did not claim, into `arrivals`; the number of datagrams."""
        cdef Listener *listener
        self.arrival_count = 0
        if self.inbox.recover() == 0 or self.inbox.state.source >= <uint64_t>self.listener_count:
            return 0
        self.receiving = <int>self.inbox.state.source
        listener = &self.listeners[self.receiving]
        self._filter(listener, <Admission>self.admissions[listener.service], &self.rows[listener.service])
        return self.inbox.used - <int>self.inbox.state.taken

    cdef int _filter(self, Listener *listener, Admission admission, RowService *row) noexcept nogil:
        cdef int index, size
        cdef msghdr *header
        cdef Arrival *arrival
        cdef Verdict verdict
        cdef cmsghdr *part
        cdef int first = <int>self.inbox.state.taken
        if self.inbox.state.counted < <uint64_t>self.inbox.used:
            add(&row.queries, self.inbox.used - self.inbox.state.counted)
            self.inbox.state.counted = self.inbox.used
        for index in range(first, self.inbox.used):
            header = &self.inbox.messages[index].msg_hdr
            size = self.inbox.messages[index].msg_len
            arrival = &self.arrivals[self.arrival_count]
            arrival.bytes = self.inbox.bytes(index)
            arrival.client = <uint8_t *>header.msg_name
            arrival.client_size = header.msg_namelen
            arrival.size = size
            arrival.place = index
            arrival.interface = 0
            memset(arrival.local, 0, 16)
            if header.msg_flags & MSG_TRUNC:
                add(&row.dropped[<int>DROP_TRUNCATED], 1)
                continue
            if size < HEADER_BYTES:
                add(&row.dropped[<int>DROP_SHORT], 1)
                continue
            if is_response(arrival.bytes):
                add(&row.dropped[<int>DROP_RESPONSE], 1)
                continue
            if listener.wildcard:
                part = CMSG_FIRSTHDR(header)
                while part != NULL:
                    if part.cmsg_level == IPPROTO_IP and part.cmsg_type == IP_PKTINFO:
                        memcpy(arrival.local, &(<in_pktinfo *>CMSG_DATA(part)).ipi_addr, 4)
                    elif part.cmsg_level == IPPROTO_IPV6 and part.cmsg_type == IPV6_PKTINFO:
                        memcpy(arrival.local, &(<in6_pktinfo *>CMSG_DATA(part)).ipi6_addr, 16)
                        if arrival.local[0] == 0xfe and arrival.local[1] & 0xc0 == 0x80:
                            arrival.interface = (<in6_pktinfo *>CMSG_DATA(part)).ipi6_ifindex
                    part = CMSG_NXTHDR(header, part)
            if self._ours(arrival.client, arrival.local, listener.family):
                add(&row.dropped[<int>DROP_SOURCE], 1)
                continue
            arrival.question_end = question_end(arrival.bytes, size)
            verdict = admission.judge(arrival.bytes, arrival.question_end, arrival.client)
            if verdict != ADMITTED:
                add(&row.dropped[<int>DROP_NOT_ADMITTED], 1)
                if verdict == REFUSED:
                    self.refuse(listener, <int>(listener - self.listeners), arrival, RCODE_WIRE_REFUSED)
                continue
            arrival.key = _fold(arrival.client)
            self.arrival_count += 1
        return self.arrival_count

    cdef bint _ours(self, const uint8_t *client, const uint8_t *local, int family) noexcept nogil:
        """A source that no client has: port 0, multicast, broadcast, or one of our own listening addresses."""
        cdef uint16_t port = ntohs((<const sockaddr_in *>client).sin_port)
        cdef const uint8_t *address
        cdef Listener *listener
        cdef int length, index
        if port == 0:
            return True
        if family == AF_INET:
            address = <const uint8_t *>&(<const sockaddr_in *>client).sin_addr
            length = 4
            if address[0] >= 224 or address[0] == 0:
                return True             # multicast, reserved, broadcast; "this network" (RFC 1122 §3.2.1.3)
        else:
            address = <const uint8_t *>&(<const sockaddr_in6 *>client).sin6_addr
            length = 16
            if address[0] == 0xff:
                return True
        for index in range(self.listener_count):
            listener = &self.listeners[index]
            if port == listener.port and family == listener.family and listener.descriptor >= 0:
                if memcmp(address, local if listener.wildcard else listener.address, length) == 0:
                    return True
        return False

    cdef void refuse(self, Listener *listener, int number, Arrival *arrival, int rcode) noexcept nogil:
        """Tell the client REFUSED or SERVFAIL: its own header and question, nothing else, never more than was asked."""
        cdef int index, size = arrival.question_end if arrival.question_end else HEADER_BYTES
        if self.outbox.count == OUTBOX:
            self.flush()
        arrival.bytes[2] = (arrival.bytes[2] & 0x79) | 0x80     # QR, OPCODE and RD; AA and TC off
        arrival.bytes[3] = <uint8_t>rcode
        memset(arrival.bytes + 4, 0, 8)
        if arrival.question_end:
            write16(arrival.bytes + 4, 1)
        index = self.outbox.put(number, NOT_COUNTED, arrival.bytes, size)
        self._address(index, listener, arrival.client, arrival.client_size, arrival.local, arrival.interface)

    cdef void answer(self, Query *query, uint8_t *bytes, int size) noexcept nogil:
        """Stage `bytes`, borrowed until the next `flush`, as the answer to `query`; its id is put back here."""
        cdef int index
        if self.outbox.count == OUTBOX:
            self.flush()
        write16(bytes, query.client_id)
        index = self.outbox.put(query.listener, 0, bytes, size)
        self._address(index, &self.listeners[query.listener], query.client, query.client_size, query.local,
                      query.interface)

    cdef void _address(self, int index, Listener *listener, const uint8_t *client, int client_size,
                       const uint8_t *local, uint32_t interface) noexcept nogil:
        cdef msghdr *header
        cdef cmsghdr *part
        self.outbox.address(index, client, client_size)
        if not listener.wildcard:
            return
        header = &self.outbox.staged[index].msg_hdr
        header.msg_control = self.outbox.control + index * CONTROL_BYTES
        memset(header.msg_control, 0, CONTROL_BYTES)
        if listener.family == AF_INET:
            header.msg_controllen = CMSG_SPACE(sizeof(in_pktinfo))
            part = CMSG_FIRSTHDR(header)
            part.cmsg_level = IPPROTO_IP
            part.cmsg_type = IP_PKTINFO
            part.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
            memcpy(&(<in_pktinfo *>CMSG_DATA(part)).ipi_spec_dst, local, 4)
        else:
            header.msg_controllen = CMSG_SPACE(sizeof(in6_pktinfo))
            part = CMSG_FIRSTHDR(header)
            part.cmsg_level = IPPROTO_IPV6
            part.cmsg_type = IPV6_PKTINFO
            part.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
            memcpy(&(<in6_pktinfo *>CMSG_DATA(part)).ipi6_addr, local, 16)
            (<in6_pktinfo *>CMSG_DATA(part)).ipi6_ifindex = interface

    cdef void flush(self) noexcept nogil:
        """Send what is staged, one sendmmsg per listener. Afterwards no borrowed bytes are in use."""
        cdef int number = 0, size, at, sent, error, index, counted
        cdef RowService *row
        while True:
            size = self.outbox.take(&number)
            if size == 0:
                return
            row = &self.rows[self.listeners[number].service]
            at = 0
            while at < size:
                sent = sendmmsg(self.listeners[number].descriptor, self.outbox.ready + at, size - at, MSG_DONTWAIT)
                if sent > 0:
                    counted = sent
                    for index in range(at, at + sent):
                        counted -= self.outbox.tags[index]
                    add(&row.answers, counted)
                    at += sent
                    continue
                error = errno
                if error == EINTR:
                    continue
                if error == EAGAIN or error == ENOBUFS or error == ENOMEM:
                    for index in range(at, size):
                        self._keep_late(number, index)
                    break
                if self.outbox.tags[at] != NOT_COUNTED:
                    add(&row.dropped[<int>drop_of_errno(error)], 1)
                at += 1

    cdef void _keep_late(self, int number, int index) noexcept nogil:
        cdef msghdr *header = &self.outbox.ready[index].msg_hdr
        cdef int size = <int>header.msg_iov.iov_len
        cdef Late *late
        if self.outbox.tags[index] == NOT_COUNTED:
            return
        late = &self.backlog[(self.backlog_first + self.backlog_count) % BACKLOG]
        if self.backlog_count < BACKLOG and self.backlog_bytes + size <= BACKLOG_BYTES:
            late.bytes = <uint8_t *>malloc(size)
            if late.bytes != NULL:
                memcpy(late.bytes, header.msg_iov.iov_base, size)
                late.size = size
                late.listener = number
                late.name_size = header.msg_namelen
                memcpy(late.name, header.msg_name, late.name_size)
                late.control_size = <int>header.msg_controllen
                memcpy(late.control, header.msg_control, late.control_size)
                self.backlog_count += 1
                self.backlog_bytes += size
                return
        add(&self.rows[self.listeners[number].service].dropped[<int>DROP_BACKLOG_FULL], 1)

    cdef bint retry(self) noexcept nogil:
        """Send what waits; True when something still does."""
        cdef Late *late
        cdef msghdr header
        cdef iovec part
        cdef RowService *row
        while self.backlog_count:
            late = &self.backlog[self.backlog_first]
            memset(&header, 0, sizeof(msghdr))
            part.iov_base = late.bytes
            part.iov_len = late.size
            header.msg_name = late.name
            header.msg_namelen = late.name_size
            header.msg_iov = &part
            header.msg_iovlen = 1
            if late.control_size:
                header.msg_control = late.control
                header.msg_controllen = late.control_size
            row = &self.rows[self.listeners[late.listener].service]
            if sendmsg(self.listeners[late.listener].descriptor, &header, MSG_DONTWAIT) >= 0:
                add(&row.answers, 1)
            elif errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
                return True
            else:
                add(&row.dropped[<int>drop_of_errno(errno)], 1)
            free(late.bytes)
            self.backlog_bytes -= late.size
            self.backlog_first = (self.backlog_first + 1) % BACKLOG
            self.backlog_count -= 1
        return False


def _dup(descriptor):
    from os import dup
    return dup(descriptor)


cdef uint32_t _fold(const uint8_t *client) noexcept nogil:
    """The client's address in 32 bits, as IPVS folds it (ip_vs_sh.c): host order, IPv6 words exclusive-ored."""
    cdef const uint8_t *address
    cdef uint32_t[4] words
    if (<const sockaddr *>client).sa_family == AF_INET:
        return ntohl((<const sockaddr_in *>client).sin_addr.s_addr)
    address = <const uint8_t *>&(<const sockaddr_in6 *>client).sin6_addr
    memcpy(words, address, 16)
    return ntohl(words[0] ^ words[1] ^ words[2] ^ words[3])
