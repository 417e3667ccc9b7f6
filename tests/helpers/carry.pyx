"""The part of the delay line that every frame meets: reads them, holds them, writes them. See delayline.py.

Compiled, for it runs on the cores that are measured: at 30,000 queries a second each of 120,000 frames is held here.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport RAND_MAX, free, malloc, rand
from libc.string cimport memcpy
from posix.time cimport timespec
from posix.unistd cimport read, write

from balancer.datapath.syscalls cimport monotonic_ns, nap

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    enum: POLLIN
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *mask)

cdef enum:
    FRAME = 65536
    AT_ONCE = 64                        # frames of one end that are read in a row, for others want to leave, too
    MOST_ENDS = 64

cdef int64_t NEVER = <int64_t>1 << 62

cdef struct Frame:
    Frame *later
    int64_t came_ns
    int size
    uint8_t bytes[1]

cdef struct Way:                        # one direction
    int source                          # where frames come in
    int sink
    Frame *first                        # on the way
    Frame *last
    int waiting


cdef class Wire:
    """Both directions between two descriptors. delay_ns holds for every frame on the wire, loss is the share to lose.
    """
    cdef Way ways[2]
    cdef public int64_t delay_ns
    cdef double loss
    cdef int64_t set_at_ns
    cdef int64_t late_ns
    cdef readonly long passed, lost, refused

    def __cinit__(self, int left, int right):
        self.ways[0].source = self.ways[1].sink = left
        self.ways[0].sink = self.ways[1].source = right

    def __dealloc__(self):
        cdef Frame *frame
        for way in range(2):
            while self.ways[<int>way].first != NULL:
                frame = self.ways[<int>way].first
                self.ways[<int>way].first = frame.later
                free(frame)

    def set(self, double delay, double loss):
        """In force from now on; seconds, and the share of frames to lose."""
        self.delay_ns, self.loss, self.set_at_ns = round(delay * 1e9), loss, monotonic_ns()

    @property
    def waiting(self):
        return self.ways[0].waiting + self.ways[1].waiting

    def lateness(self):
        """Seconds that the latest frame since the last call left too late."""
        late, self.late_ns = self.late_ns / 1e9, 0
        return late

    cdef int take(self, int which) noexcept nogil:
        """Read what has come at the end of one way; -1 without memory."""
        cdef uint8_t bytes[FRAME]
        cdef Way *way = &self.ways[which]
        cdef Frame *frame
        cdef ssize_t size
        for _ in range(AT_ONCE):
            size = read(way.source, bytes, FRAME)
            if size < 0:
                return 0                # nothing more, or a device that is down
            if self.loss and rand() < self.loss * (<double>RAND_MAX + 1):
                self.lost += 1
                continue
            frame = <Frame *>malloc(sizeof(Frame) + size)
            if frame == NULL:
                return -1
            frame.later = NULL
            frame.came_ns = monotonic_ns()
            frame.size = <int>size
            memcpy(frame.bytes, bytes, size)
            if way.last == NULL:
                way.first = frame
            else:
                way.last.later = frame
            way.last = frame
            way.waiting += 1
        return 0

    cdef int64_t give(self) noexcept nogil:
        """Write what has waited long enough; when the next is to leave (ns), NEVER when none waits."""
        cdef int64_t next_due = NEVER, due, late
        cdef Way *way
        cdef Frame *frame
        cdef int which
        for which in range(2):
            way = &self.ways[which]
            while way.first != NULL:
                frame = way.first
                due = frame.came_ns + self.delay_ns
                late = <int64_t>monotonic_ns() - due
                if late < 0:
                    next_due = min(next_due, due)
                    break
                # What leaves because the delay was shortened could not leave before that.
                self.late_ns = max(self.late_ns, min(late, late + due - self.set_at_ns))
                if write(way.sink, frame.bytes, frame.size) >= 0:
                    self.passed += 1
                else:
                    self.refused += 1
                way.first = frame.later
                if way.first == NULL:
                    way.last = NULL
                way.waiting -= 1
                free(frame)
        return next_due


def carry(list wires, int control, int64_t rest_ns):
    """Pass frames until `control` can be read; between two looks at the inputs rest_ns while frames wait."""
    cdef pollfd ends[MOST_ENDS]
    cdef void *owners[MOST_ENDS]
    cdef int count = 2 * len(wires) + 1, index
    cdef int64_t due, wait
    cdef timespec pause
    cdef Wire wire
    cdef bint told = False
    if count > MOST_ENDS:
        raise ValueError(f"{len(wires)} wires, at most {(MOST_ENDS - 1) // 2}")
    ends[0].fd, ends[0].events = control, POLLIN
    for index in range(1, count):
        wire = wires[(index - 1) // 2]
        owners[index] = <void *>wire
        ends[index].fd, ends[index].events = wire.ways[(index - 1) % 2].source, POLLIN
    while True:
        with nogil:
            due = NEVER
            index = 1
            while index < count:
                due = min(due, (<Wire>owners[index]).give())
                index += 2
            wait = max(<int64_t>0, due - <int64_t>monotonic_ns())
            if rest_ns and wait and due != NEVER:
                nap(min(wait, rest_ns))
                wait = 0
            pause.tv_sec, pause.tv_nsec = wait // 1_000_000_000, wait % 1_000_000_000
            if ppoll(ends, count, NULL if due == NEVER else &pause, NULL) > 0:
                for index in range(1, count):
                    if ends[index].revents & POLLIN == 0:
                        if ends[index].revents:
                            ends[index].fd = -1         # a device that is gone: nothing comes in here any more
                    elif (<Wire>owners[index]).take((index - 1) % 2) < 0:
                        with gil:
                            raise MemoryError("a frame")
                told = ends[0].revents != 0
        if told:
            return
