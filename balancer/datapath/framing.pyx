"""Framing of DNS over TCP (RFC 1035 §4.2.2, RFC 7766 §8): where messages begin and end. Pure: no socket, no clock.

A reader puts what it kept (`load_rest`) before what it received, takes whole messages off the front (`frame_size`)
and keeps the rest (`keep_rest`). What is kept is allocated exactly, so a connection between two messages owns
nothing. Whether a message makes sense beyond its length is not known here.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef int load_rest(const Rest *rest, uint8_t *target) noexcept nogil:
    """Copy what was kept to `target`; its size."""
    if rest.size:
        memcpy(target, rest.bytes, rest.size)
    return rest.size


cdef bint keep_rest(Rest *rest, const uint8_t *bytes, int size) noexcept nogil:
    """Keep `size` bytes, and nothing else, for later. False when there is no memory: then nothing is kept."""
    cdef uint8_t *room
    if size == 0:
        drop_rest(rest)
        return True
    room = rest.bytes if rest.size == size else <uint8_t *>realloc(rest.bytes, size)
    if room == NULL:
        drop_rest(rest)
        return False
    memcpy(room, bytes, size)
    rest.bytes = room
    rest.size = size
    return True


cdef void drop_rest(Rest *rest) noexcept nogil:
    free(rest.bytes)
    rest.bytes = NULL
    rest.size = 0


cdef class Reader:
    """The same three calls as a Python object, for tests, fuzzing and benchmarks: bytes in, messages out."""

    cdef Rest rest
    cdef readonly bint broken           # something came that can never be a message; nothing is read after it

    def __dealloc__(self):
        drop_rest(&self.rest)

    def feed(self, data):
        """The messages that `data` completes, without their prefixes."""
        cdef bytes whole = self.rest.bytes[:self.rest.size] + bytes(data) if self.rest.size else bytes(data)
        cdef const uint8_t *start = whole
        cdef int size = len(whole), at = 0, found
        messages = []
        if self.broken:
            return messages
        while True:
            found = frame_size(start + at, size - at)
            if found <= 0:
                break
            messages.append(whole[at + PREFIX_BYTES:at + found])
            at += found
        if found == NOT_A_MESSAGE:
            self.broken = True
            drop_rest(&self.rest)
            return messages
        if not keep_rest(&self.rest, start + at, size - at):
            raise MemoryError(f"{size - at} bytes of an unfinished message")
        return messages

    @property
    def kept(self):
        """Bytes of the unfinished message, prefix included."""
        return self.rest.size
