"""The side toward the clients."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.admission cimport Admission
from balancer.datapath.mmsg cimport Inbox, Outbox
from balancer.datapath.query cimport BATCH, Query, Slots
from balancer.table.layout cimport RowService

cdef enum:
    MAX_LISTENERS = 256

cdef struct Listener:
    int descriptor                      # -1: closed
    int service
    int family
    bint wildcard                       # answers need the asked address as their source
    uint16_t port                       # host order
    uint8_t address[16]                 # as bound; IPv4 in the first four bytes

cdef struct Arrival:                    # an admitted query in the inbox
    uint8_t *bytes
    uint8_t *client
    uint8_t local[16]
    uint32_t interface
    int place                           # in the inbox
    uint32_t key                        # the client's address, folded to 32 bits
    uint16_t size
    uint16_t question_end
    uint8_t client_size

cdef struct Late:                       # an answer that the kernel would not take yet
    uint8_t *bytes
    int size
    int listener
    int name_size
    int control_size
    uint8_t name[28]
    uint8_t control[64]

cdef class Front:
    cdef Inbox inbox
    cdef Outbox outbox
    cdef Listener listeners[MAX_LISTENERS]
    cdef int listener_count
    cdef Arrival arrivals[BATCH]
    cdef int arrival_count
    cdef int receiving                  # listener of the present batch
    cdef RowService *rows               # by service, of this worker
    cdef list admissions                # by service
    cdef Late *backlog
    cdef int backlog_first
    cdef int backlog_count
    cdef long backlog_bytes

    cdef int receive(self, int listener) noexcept
    cdef int recover(self) noexcept
    cdef int _filter(self, Listener *listener, Admission admission, RowService *row) noexcept nogil
    cdef bint _ours(self, const uint8_t *client, const uint8_t *local, int family) noexcept nogil
    cdef void refuse(self, Listener *listener, int number, Arrival *arrival, int rcode) noexcept nogil
    cdef void answer(self, Query *query, uint8_t *bytes, int size) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void _address(self, int index, Listener *listener, const uint8_t *client, int client_size,
                       const uint8_t *local, uint32_t interface) noexcept nogil
    cdef void _keep_late(self, int number, int index) noexcept nogil
    cdef bint retry(self) noexcept nogil
