"""Foreign declarations of the data path, nothing else."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <netinet/ip.h>
    #include <linux/errqueue.h>
    #include <sys/epoll.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/random.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <time.h>
    #include <unistd.h>

    static inline uint64_t ns7_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static inline void ns7_nap(uint64_t ns) {
        struct timespec rest = {0, (long)ns};
        nanosleep(&rest, NULL);
    }

    /* The kernel may make each sleep 50 us longer unless it is told otherwise (prctl(2)). */
    static inline void ns7_exact_naps(void) { prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); }
    """
    void nap "ns7_nap"(uint64_t ns) noexcept nogil
    void exact_naps "ns7_exact_naps"() noexcept nogil
    uint64_t monotonic_ns "ns7_monotonic_ns"() noexcept nogil

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t length)
    int getpeername(int fd, sockaddr *address, socklen_t *length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *part)
    uint8_t *CMSG_DATA(cmsghdr *part)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int AF_INET, AF_INET6, AF_UNSPEC, SOL_SOCKET
    int MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)
    int IPPROTO_IP, IPPROTO_IPV6, IP_PKTINFO, IPV6_PKTINFO, IP_RECVERR, IPV6_RECVERR

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
    int SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buffer, size_t length, unsigned int flags)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
