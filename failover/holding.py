"""Has the virtual addresses, or gives them up: netlink's part of failover, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from balancer.component import WARNING
from balancer.table.view import TableView
from failover import frames
from failover.address import Address, Addresses, Interface
from failover.troubles import Troubles

DRAIN, DRAIN_LOOK = 0.2, 0.01   # seconds for what is in flight when the address goes
QUIET_LOOKS = 5                 # in a row: what a worker has not read yet is not in flight
UNKNOWN = -1

T = TypeVar("T")


def virtual(config: Any) -> tuple[Address, ...]:
    """The addresses that move; with IPv6 ones goes a link-local one, as RFC 9568 §5.2.9 wants it."""
    found = frames.parse(config.addresses)
    if any(one.version == 6 for one in found) and not any(one.version == 6 and one.is_link_local for one in found):
        found.append(frames.link_local(config.virtual_router_id))
    return tuple(found)


class Holding:
    """The addresses of the section on its interface. `counts` is the owner's."""

    def __init__(self, config: Any, troubles: Troubles, counts: Counter[str], log: Callable[[str], None]) -> None:
        self._troubles, self._counts, self._log = troubles, counts, log
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._addresses = Addresses(config.interface, virtual(config))
        self._ours: dict[Address, int] = {}     # put there by ns7, and when they were created, as far as is known

    @property
    def virtual(self) -> tuple[Address, ...]:
        return self._addresses.virtual

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def configure(self, config: Any) -> None:
        """Addresses that are no longer ours go; new ones come when they are claimed or kept."""
        before, wanted = self._addresses, virtual(config)
        if (before.interface, before.virtual) == (config.interface, wanted):
            return
        keep = set(wanted) if before.interface == config.interface else set()
        before.virtual = tuple(one for one in before.virtual if one not in keep)
        self._ours = {one: created for one, created in self._ours.items() if one in keep}
        with contextlib.suppress(OSError):
            await self._in_thread(before.remove)
        await self._in_thread(before.close)
        self._addresses = Addresses(config.interface, wanted)

    async def look(self) -> Interface:
        """The interface as it is now; OSError when it is not there."""
        return await self._in_thread(self._addresses.look)

    def adopt(self) -> None:
        """They are here: added just now, or a predecessor's."""
        self._ours = dict.fromkeys(self.virtual, UNKNOWN)

    async def claim(self) -> str:
        """Add them; why they cannot be added, "" when they are here."""
        try:
            await self._in_thread(self._addresses.renew)
        except OSError as error:
            reason = f"cannot be added: {error.strerror or error}"
            self._troubles.set("address", str(self.virtual[0]), "failed", reason)
            return reason
        self._troubles.set("address", str(self.virtual[0]), "")
        self.adopt()
        return ""

    @property
    def kept(self) -> bool:
        """Whether the addresses are ours: claimed, and not given up since."""
        return bool(self._ours)

    def _known(self, seen: Interface) -> dict[Address, int]:
        return {one: seen.present.get(one, UNKNOWN) for one in self.virtual}

    async def keep(self, seen: Interface | None = None) -> bool:
        """Make them last longer; whether one had been removed by somebody, and is here again."""
        try:
            seen = seen or await self.look()
            # One that is younger than it was has been away, and a renewal has brought it back unnoticed.
            lost = [one for one, created in self._ours.items()
                    if one not in seen.present or created not in (UNKNOWN, seen.present[one])]
            self._ours = self._known(seen)
            await self._in_thread(self._addresses.renew)
            if lost:
                seen = await self.look()
                self._ours = self._known(seen) if self._ours else {}        # else they were given up meanwhile
        except OSError as error:
            self._troubles.set("address", str(self.virtual[0]), "failed",
                               f"cannot be renewed: {error.strerror or error}")
            return False
        for one in lost:
            self._counts["addresses lost"] += 1
            self._troubles.set("address", str(one), "lost", "it was removed by somebody else, and is added again")
        if not lost:
            for one in self.virtual:
                self._troubles.set("address", str(one), "")
        return bool(lost)

    async def drain(self, table: TableView) -> None:
        """Until what has come is answered: without the address nothing can be sent from it."""
        quiet, before = 0, -1
        for _ in range(round(DRAIN / DRAIN_LOOK)):
            traffic = [traffic for service in table.services() for traffic in (service, service["tcp"])]
            came = sum(each["queries"] for each in traffic)
            quiet = quiet + 1 if came == before and not any(each["inflight"] for each in traffic) else 0
            if quiet == QUIET_LOOKS:
                return
            before = came
            await asyncio.sleep(DRAIN_LOOK)

    async def remove(self) -> None:
        """Take them off; what cannot be removed ends by itself."""
        self._ours = {}
        try:
            await self._in_thread(self._addresses.remove)
        except OSError as error:
            self._log(f"{WARNING}the addresses cannot be removed, they end in a few seconds: "
                      f"{error.strerror or error}")

    async def strangers(self, ports: Collection[int], ours: Collection[int]) -> list[tuple[Address, int, str]]:
        """See `Addresses.strangers`."""
        return await self._in_thread(lambda: self._addresses.strangers(ports, ours))

    async def close(self) -> None:
        """End the thread. The addresses stay."""
        await self._in_thread(self._addresses.close)
        self._thread.shutdown()
