"""Reading a socket's error queue (ip(7), IP_RECVERR). Runs in a worker; decides nothing.

The queue quotes the payload that came back, so an error can be tied to the query that caused it; an error that
quotes nothing of ours was forged or is stale. Reading an entry clears the socket's pending error as well.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from balancer.datapath.syscalls cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IP_RECVERR, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVERR, MSG_DONTWAIT,
    MSG_ERRQUEUE, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, cmsghdr, iovec, msghdr, recvmsg, sock_extended_err,
)


cdef bint read_error(int descriptor, Returned *returned) noexcept nogil:
    """Take the oldest entry of the error queue; False when it is empty."""
    cdef msghdr header
    cdef iovec part
    cdef uint8_t[512] control
    cdef cmsghdr *piece
    cdef sock_extended_err *fact
    cdef ssize_t size
    memset(&header, 0, sizeof(header))
    part.iov_base = returned.bytes
    part.iov_len = QUOTED_BYTES
    header.msg_iov = &part
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = sizeof(control)
    size = recvmsg(descriptor, &header, MSG_ERRQUEUE | MSG_DONTWAIT)
    if size < 0:
        return False
    returned.size = <int>size
    returned.error = 0
    returned.remote = False
    piece = CMSG_FIRSTHDR(&header)
    while piece != NULL:
        if ((piece.cmsg_level == IPPROTO_IP and piece.cmsg_type == IP_RECVERR)
                or (piece.cmsg_level == IPPROTO_IPV6 and piece.cmsg_type == IPV6_RECVERR)):
            fact = <sock_extended_err *>CMSG_DATA(piece)
            returned.error = fact.ee_errno
            returned.remote = fact.ee_origin == SO_EE_ORIGIN_ICMP or fact.ee_origin == SO_EE_ORIGIN_ICMP6
        piece = CMSG_NXTHDR(&header, piece)
    return True
