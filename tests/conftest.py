"""Fixtures of the scenarios: makers of what is ended, and examined, when the test is over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.helpers.client import Client
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import NameServer
from tests.helpers.tcp import TcpClient, TcpServer

StartBalancer = Callable[..., Balancer]
StartServer = Callable[..., NameServer]
OpenClient = Callable[..., Client]
StartTcpServer = Callable[..., TcpServer]
OpenTcpClient = Callable[..., TcpClient]

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile("ns7", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ns7")


@pytest.fixture
def nameserver() -> Iterator[StartServer]:
    """Makes scripted name servers: nameserver(handler, host=…)."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(NameServer(*args, **kwargs))


@pytest.fixture
def start(tmp_path: Path, nameserver: StartServer) -> Iterator[StartBalancer]:
    """Starts balancers in folders of their own: start([server address, …], **settings)."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(*args: Any, **kwargs: Any) -> Balancer:
            nonlocal count
            count += 1
            folder = tmp_path / str(count)
            folder.mkdir()
            return stack.enter_context(Balancer(folder, *args, **kwargs))

        yield make


@pytest.fixture
def client() -> Iterator[OpenClient]:
    """Opens clients: client(address, source=…)."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Client(*args, **kwargs))


@pytest.fixture
def tcpserver() -> Iterator[StartTcpServer]:
    """Makes scripted name servers over TCP: tcpserver(handler, host=…)."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(TcpServer(*args, **kwargs))


@pytest.fixture
def tcpclient() -> Iterator[OpenTcpClient]:
    """Opens clients over TCP: tcpclient(address, source=…)."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(TcpClient(*args, **kwargs))
