"""A door for Python to the inline parsers of the data path. For fuzz targets only; no part of ns7.

A message is laid so that it ends where a page without access begins: a read behind its end kills the process.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect, munmap

from balancer.datapath.admission cimport Admission
from balancer.datapath.wire cimport HEADER_BYTES
from balancer.datapath.wire cimport answers_question as _answers_question
from balancer.datapath.wire cimport question_end as _question_end
from balancer.datapath.wire cimport same_question as _same_question

cdef enum:
    ROOM = 65536                # a multiple of the page size
    PAGE = 4096


cdef class Fence:
    """One message before its fence; the pointer that `lay` returns is good until the next `lay`."""
    cdef uint8_t *base

    def __cinit__(self):
        cdef void *base = mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if base == MAP_FAILED or mprotect(<uint8_t *>base + ROOM, PAGE, PROT_NONE) != 0:
            raise MemoryError("a page without access")
        self.base = <uint8_t *>base

    def __dealloc__(self):
        munmap(self.base, ROOM + PAGE)

    cdef const uint8_t *lay(self, bytes message) except NULL:
        if len(message) > ROOM:
            raise ValueError(f"{len(message)} bytes, at most {ROOM}")
        cdef uint8_t *at = self.base + ROOM - len(message)
        memcpy(at, <const uint8_t *>message, len(message))
        return at


cdef Fence _one = Fence(), _other = Fence()


def question_end(bytes message):
    return _question_end(_one.lay(message), <int>len(message))


def same_question(bytes one, bytes other, int end):
    """Both have at least `end` bytes."""
    assert len(one) >= end and len(other) >= end
    return _same_question(_one.lay(one[:end]), _other.lay(other[:end]), end)


def answers_question(bytes answer, bytes query, int end):
    """`end` is the query's question_end; both have at least a header."""
    assert len(answer) >= HEADER_BYTES and len(query) >= max(end, <int>HEADER_BYTES)
    return _answers_question(_one.lay(answer), <int>len(answer), _other.lay(query), end)


def judge(Admission admission, bytes message, int end, bytes client):
    """The verdict's number; client is a sockaddr_in or sockaddr_in6."""
    assert len(message) >= max(end, <int>HEADER_BYTES)
    return <int>admission.judge(_one.lay(message), end, _other.lay(client))
