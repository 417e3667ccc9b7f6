"""DNS over TCP in one worker: see tcp.pyx."""

from balancer.datapath.stream cimport Stream, Streams
from balancer.datapath.syscalls cimport epoll_event

cdef enum:
    TCP_EVENTS = 16                         # per round: 256 KiB at most

cdef class Tcp:
    cdef readonly Streams streams
    cdef list relays                    # by service number; None where there is none
    cdef list active                    # those that are there
    cdef list listeners                 # of _Listener
    cdef bint out_of_descriptors
    cdef epoll_event events[TCP_EVENTS]

    cdef int _settle(self) except -1
    cdef int _observe(self) except -1
    cdef int handle(self) except -1
    cdef int look(self) except -1
    cdef bint pending(self) except -1
    cdef int _serve(self, int count) except -1
