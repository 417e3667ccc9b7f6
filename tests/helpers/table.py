"""A server table in memfds, as the supervisor makes it, with counters that a test fills with any numbers."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Mapping, Sequence
from typing import Self

from balancer.table.table import ConfigTable, Row, allocate, config_size, read_only, row_size
from balancer.table.view import TableView

ROW_HEADER = 64                         # bytes of RowHeader


class Table:
    """Services with servers of weight 1; `view` is what another process sees. A context manager.

    The first row is that of past workers, as in the supervisor.
    """

    def __init__(self, services: Mapping[str, Sequence[str]], workers: int = 1) -> None:
        self.config_fd = allocate("test-config", config_size())
        self.row_fds = [allocate("test-row", row_size()) for _ in range(workers + 1)]
        self.view_fds = [read_only(descriptor) for descriptor in (self.config_fd, *self.row_fds)]
        self.config = ConfigTable(self.config_fd, True, True)
        for descriptor in self.row_fds:
            Row(descriptor, True, True)
        for number, (name, servers) in enumerate(services.items()):
            self.config.set_service(number, name, "wlc", 2_000_000_000, 0)
            for slot, server in enumerate(servers):
                self.config.add_server(number, slot, server, f"192.0.2.1:{slot + 1}", 1)
        self.config.publish()
        config, *rows = self.view_fds
        self.view = TableView(ConfigTable(config), [Row(row) for row in rows])

    def fill(self, seed: int) -> None:
        """Put any number into every counter of every row; sums of them are exact in a double."""
        words = random.Random(seed)
        size = row_size() - ROW_HEADER
        for descriptor in self.row_fds:
            # A prime number of words, repeated: no two counters that are near have the same.
            some = array("Q", (words.getrandbits(32) for _ in range(4099))).tobytes()
            os.pwrite(descriptor, (some * (size // len(some) + 1))[:size], ROW_HEADER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for descriptor in (self.config_fd, *self.row_fds, *self.view_fds):
            os.close(descriptor)
