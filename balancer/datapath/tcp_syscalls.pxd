"""Foreign declarations of TCP, nothing else; those it shares with UDP stand in syscalls.pxd."""

from libc.stdint cimport uint32_t

from balancer.datapath.syscalls cimport sockaddr, socklen_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    """

cdef extern from "<sys/socket.h>" nogil:
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int c_socket "socket"(int family, int kind, int protocol)
    int c_bind "bind"(int fd, const sockaddr *address, socklen_t length)
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SHUT_RD, SHUT_WR, MSG_NOSIGNAL

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_NODELAY, TCP_QUICKACK

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLHUP
