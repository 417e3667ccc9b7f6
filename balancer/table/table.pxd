"""C access to the shared-memory table, for the data path."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from balancer.table.layout cimport (
    ConfigHeader, ConfigServer, ConfigService, RowHeader, RowServer, RowService, TcpRowServer, TcpRowService,
)

cdef uint64_t *latency_bounds_ns() noexcept nogil

cdef class Region:
    cdef uint8_t *base
    cdef readonly size_t size
    cdef readonly bint writable
    cdef int _verify(self, str what, uint64_t *header, uint64_t magic, size_t expected) except -1
    cdef int _own(self) except -1

cdef class ConfigTable(Region):
    cdef ConfigHeader *header
    cdef ConfigService *entry
    cdef ConfigServer *_server(self, int service, int slot) except NULL
    cdef object _entry(self, int service, int slot)
    cdef int _note_return(self, int service, int slot, bint took, uint64_t now_ns) except -1

cdef class Row(Region):
    cdef RowHeader *header
    cdef RowService *service_rows
    cdef RowServer *server_rows             # MAX_SERVERS per service
    cdef TcpRowService *tcp_service_rows
    cdef TcpRowServer *tcp_server_rows
    cdef int _checked(self, int service) except -1
