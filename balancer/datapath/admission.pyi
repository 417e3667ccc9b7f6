from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

_Pairs: TypeAlias = Sequence[Sequence[int]]

MAPPED: int

def ranges(networks: Iterable[IPv4Network | IPv6Network]) -> list[tuple[int, int]]: ...

class Prefixes:
    def __init__(self, pairs: _Pairs) -> None: ...
    def __contains__(self, address: IPv4Address | IPv6Address) -> bool: ...

class Admission:
    def __init__(self, query: _Pairs, transfer: _Pairs, update: _Pairs, notify: _Pairs) -> None: ...
