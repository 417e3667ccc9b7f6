"""What directors tell each other beside the adverts, authenticated: HMAC-SHA256 with a key that both have. Pure.

A datagram is the MAC, then JSON. Each director has a session (random, new with each process) and counts its datagrams;
each datagram says which sessions its sender has heard and up to which number. Fresh is what answers one of our own
newest datagrams and counts on: so nothing that was recorded can be played again, and no clock is compared.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

KEY_BYTES = 16                  # of a key at least
MAC_BYTES = 32
LARGEST = 60_000                # bytes of a datagram
PIECE = 40_000                  # characters of what is too long for one
MOST_PIECES = 32
ANSWERED_WITHIN = 10            # of our newest datagrams
STRANGERS, RETIRED = 16, 64     # sessions that are remembered
REASONS = ("size", "mac", "malformed", "own", "replayed")


class Rejected(Exception):
    """A datagram that is not believed; `reason` is one of `REASONS`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Told(NamedTuple):
    """What another director has just said. facts: its status; text: the whole of what it sent in pieces, or None."""

    node: str
    facts: dict[str, Any]
    text: str | None


class Exchange:
    """One director's side. session: random text, of no other process."""

    def __init__(self, key: bytes, node: str, session: str) -> None:
        self._key, self._node, self._session = key, node, session
        self._number = 0
        self._heard: OrderedDict[str, int] = OrderedDict()      # session → newest number
        self._current: dict[str, str] = {}                      # node → its session, proven to live
        self._retired: OrderedDict[str, None] = OrderedDict()
        self._pieces: dict[str, tuple[str, dict[int, str]]] = {}

    # Out

    def tell(self, facts: Mapping[str, Any]) -> bytes:
        """A datagram with this status."""
        return self._seal({"facts": dict(facts)})

    def tell_text(self, facts: Mapping[str, Any], label: str, text: str) -> Iterator[bytes]:
        """Datagrams that carry a longer text beside the status; label tells it from another text."""
        pieces = [text[at:at + PIECE] for at in range(0, len(text), PIECE)][:MOST_PIECES] or [""]
        for number, piece in enumerate(pieces):
            yield self._seal({"facts": dict(facts), "piece": [label, number, len(pieces), piece]})

    def _seal(self, body: dict[str, Any]) -> bytes:
        self._number += 1
        data = json.dumps({"node": self._node, "session": self._session, "number": self._number,
                           "heard": dict(self._heard), **body}).encode()
        return hmac.digest(self._key, data, hashlib.sha256) + data

    # In

    def read(self, datagram: bytes) -> Told | None:
        """What it says; None when its sender has yet to prove that it is no recording; `Rejected`."""
        if not MAC_BYTES < len(datagram) <= LARGEST:
            raise Rejected("size")
        mac, data = datagram[:MAC_BYTES], datagram[MAC_BYTES:]
        if not hmac.compare_digest(mac, hmac.digest(self._key, data, hashlib.sha256)):
            raise Rejected("mac")
        try:
            body = json.loads(data)
            node, session, number = str(body["node"])[:63], str(body["session"])[:64], int(body["number"])
            answered, facts = int(body["heard"].get(self._session, 0)), dict(body["facts"])
            piece = body.get("piece")
            if piece is not None:
                label, at, count, text = str(piece[0])[:64], int(piece[1]), int(piece[2]), str(piece[3])
                if not 0 <= at < count <= MOST_PIECES:
                    raise ValueError("no such piece")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise Rejected("malformed") from error
        if session == self._session or node == self._node:
            raise Rejected("own")
        if session in self._retired or number <= self._heard.get(session, 0):
            raise Rejected("replayed")
        self._remember(session, number)
        if not self._number - ANSWERED_WITHIN <= answered <= self._number or answered == 0:
            return None
        if self._current.get(node) != session:
            self._retire(node)
            self._current[node] = session
        return Told(node, facts, self._assemble(node, label, at, count, text) if piece is not None else None)

    def _remember(self, session: str, number: int) -> None:
        self._heard[session] = number
        self._heard.move_to_end(session)
        for known in list(self._heard):
            if len(self._heard) <= STRANGERS:
                break
            if known not in self._current.values():
                del self._heard[known]

    def _retire(self, node: str) -> None:
        old = self._current.pop(node, None)
        if old is not None:
            self._heard.pop(old, None)
            self._retired[old] = None
            if len(self._retired) > RETIRED:
                self._retired.popitem(last=False)

    def _assemble(self, node: str, label: str, at: int, count: int, text: str) -> str | None:
        known, pieces = self._pieces.get(node, ("", {}))
        if known != label:
            pieces = {}
        pieces[at] = text
        self._pieces[node] = label, pieces
        if len(pieces) < count:
            return None
        del self._pieces[node]
        return "".join(pieces[number] for number in sorted(pieces))
