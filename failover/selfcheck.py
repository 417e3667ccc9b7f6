"""Each second: whether this director can serve, as the table, the kernel and the supervisor say. See fitness.py."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from balancer.component import Host
from balancer.errors import ControlError
from failover.fitness import Fitness, reason
from failover.holding import Holding
from failover.troubles import Troubles

LOOK_STRANGERS = 5              # calls of `look` between two looks at who else holds the port
ASK_WAIT = 2.0                  # seconds for the supervisor's answer


class SelfCheck:
    """fingerprint: of the configuration in force; `subject` names the addresses in events."""

    def __init__(self, host: Host, holding: Holding, troubles: Troubles, subject: Callable[[], str]) -> None:
        self._host, self._holding, self._troubles, self._subject = host, holding, troubles, subject
        self._fitness = Fitness()
        self._fitness.why = str(host.snapshot.get("why", ""))
        self._strangers: list[str] = []
        self._looks = 0
        self.fingerprint = ""

    @property
    def why(self) -> str:
        """Why this director cannot serve, "" when it can."""
        return self._fitness.why

    async def look(self) -> bool:
        """Look at everything; whether it can serve."""
        with contextlib.suppress(ControlError):
            facts = await self._host.channel.request("", "facts", {}, ASK_WAIT)
            self.fingerprint = str(facts["fingerprint"])
        if self._looks % LOOK_STRANGERS == 0:
            await self.look_for_strangers()
        self._looks += 1
        return self._judge()

    def look_soon(self) -> None:
        """The next `look` looks for strangers: the address has come, and named needs a moment."""
        self._looks = 0

    async def look_for_strangers(self) -> None:
        """Who else receives what is sent to the addresses: named binds every address that it sees coming."""
        with contextlib.suppress(ControlError, OSError):
            listeners = await self._host.channel.request("", "listeners", {}, ASK_WAIT)
            ports = {int(address.rpartition(":")[2]) for address in listeners}
            ours = {inode for inodes in listeners.values() for inode in inodes}
            found = await self._holding.strangers(ports, ours)
            self._strangers = [f"{address} port {port}/{proto}" for address, port, proto in found]
            self._troubles.set("port", self._subject(), "taken" if found else "",
                               f"another program receives queries at {', '.join(self._strangers)}")

    def _judge(self) -> bool:
        table, before = self._host.table, self._fitness.why
        why = reason([row.heartbeat_ns for row in table.rows[1:]], table.services(), self._strangers,
                     time.monotonic_ns())
        fit = self._fitness.look(why)
        if self._fitness.why != before:
            self._troubles.set("director", self._host.node, "" if fit else "degraded", self._fitness.why)
        return fit
