"""`python -m benchmarks.faults.killable ADDRESS:PORT`: a name server that one query ends, as a bug would.

It answers every query NOERROR without records, from one process. Whoever asks for a name that begins with the label
`KILLER` gets no answer, and neither does anybody else from then on.
"""

from __future__ import annotations

import os
import socket
import sys

KILLER = "killer"
LABEL = len(KILLER).to_bytes(1, "big") + KILLER.encode()
KILLED = 86                 # exit code
BUFFER = 4 << 20
LEAST = 12


def answer(query: bytes) -> bytes | None:
    """What is said; None: it dies of it."""
    if query[LEAST:LEAST + len(LABEL)] == LABEL:
        return None
    return query[:2] + b"\x84\0" + query[4:6] + bytes(6) + query[LEAST:]


def serve(host: str, port: int) -> None:
    """Until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.bind((host, port))
        while True:
            query, peer = sock.recvfrom(4096)
            if len(query) < LEAST:
                continue
            said = answer(query)
            if said is None:
                os._exit(KILLED)
            sock.sendto(said, peer)


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    serve(host, int(port))
