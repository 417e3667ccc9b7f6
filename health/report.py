"""What health tells of its targets: events through `News`, and the snapshot. Runs in the health process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from balancer.component import Event, lapse
from balancer.table.verdicts import Found
from balancer.table.view import serving_state
from health.asked import Asked
from health.config import Health
from health.news import News
from health.question import Opinion
from health.roster import Roster
from health.staleness import CURRENT, Move
from health.target import Target

MOST_SUMMED = 5             # lines about zones that are behind in the summary
MOST_TOLD = 200             # zones in the snapshot


class Report:
    """`snapshot` is a predecessor's; what it counted and told goes on."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float], snapshot: Mapping[str, Any]) -> None:
        self._news = News(emit, clock, snapshot.get("told", {}))
        self.probes: Counter[str] = Counter(snapshot.get("probes", {}))
        self.changes = int(snapshot.get("changes", 0))

    def server(self, target: Target, reason: str) -> None:
        """How a target stands, as one word for all of its places."""
        state = serving_state([Found(standing.verdict) for standing in target.standings], target.suspected)
        # One protocol alone is told when the other is settled: a server that dies is down, not degraded first.
        target.unsaid = reason if state == "degraded" and any(one.moving for one in target.standings) else ""
        if not target.unsaid:
            for place in target.places:
                self._news.tell("server", place.subject, "up", state, reason)

    def master(self, name: str, reason: str, lost: bool) -> None:
        """Whether the master can be asked."""
        self._news.tell("master", name, "up", "unreachable" if lost else "up",
                        f"{reason}: serials are not compared" if lost else "serials are compared again")

    def recursion(self, target: Target, opinion: Opinion) -> None:
        """Whether a target resolves foreign names."""
        for place in target.places:
            self._news.tell("recursion", place.subject, "closed", "open" if opinion.ra else "closed",
                            "the server resolves foreign names for us" if opinion.ra else "resolves no foreign names")

    def zone(self, target: Target, zone: str, move: Move) -> None:
        """A zone of a target fell behind, became stale, or is current again."""
        what = (f"serial {move.served}, the master's is {move.master}" if move.after != CURRENT else
                f"serial {move.served}, was behind for {lapse(move.lasted)}")
        self._tell_zone(target, zone, move.after, what)

    def current(self, target: Target, zone: str) -> None:
        """A zone is as new as the master's. A predecessor may have told that it was not."""
        self._tell_zone(target, zone, CURRENT, "as new as the master's")

    def _tell_zone(self, target: Target, zone: str, state: str, reason: str) -> None:
        for place in target.places:
            self._news.tell("zone", f"{place.subject} {zone}", CURRENT, state, reason)

    def file(self, path: str, error: str) -> None:
        """How reading `zones_from` went."""
        self._news.tell("zones", path, "ok", "failed" if error else "ok", error or "read again")

    def forget(self, config: Health, asked: Asked, roster: Roster) -> None:
        """What was told of servers, zones and a master that are not looked at any more ends."""
        subjects = {place.subject for place in roster.places()}
        compared = roster.master is not None

        def gone(kind: str, subject: str) -> bool:
            server, _, zone = subject.partition(" ")
            return {"server": server not in subjects,
                    "zone": server not in subjects or not compared or not asked.watches(zone),
                    "recursion": server not in subjects or config.recursion_check == "off",
                    "master": subject != str(config.master),
                    "zones": subject != config.zones_from}.get(kind, False)

        self._news.forget(gone)

    def flush(self) -> bool:
        """Tell what waits; whether a successor must hear of something new."""
        self._news.flush()
        changed, self._news.changed = self._news.changed, False
        return changed

    def snapshot(self, config: Health, asked: Asked, roster: Roster) -> dict[str, Any]:
        """The present state as plain data; "told", "probes" and "changes" are a successor's, too."""
        targets = roster.targets.values()
        behind = [{"server": place.subject, "zone": zone, "state": copy.state, "behind": round(copy.behind, 3)}
                  for target in targets for zone, copy in target.copies.items() for place in target.places][:MOST_TOLD]
        known = [{"server": place.subject, "zone": zone, "serial": target.serials[zone][0]}
                 for target in targets for zone in sorted(asked.zones) if zone in target.serials
                 for place in target.places][:MOST_TOLD]
        master = None if roster.master is None else roster.targets[roster.master].standings[0].verdict
        return {"told": self._news.told, "probes": dict(self.probes), "changes": self.changes,
                "targets": len(roster.targets), "zones": asked.count,
                "master": {"name": str(config.master or ""), "verdict": master}, "behind": behind, "serials": known,
                "summary": _summary(config, asked, roster, master, behind)}


def _summary(config: Health, asked: Asked, roster: Roster, master: str | None,
             behind: list[dict[str, Any]]) -> list[str]:
    """For `ns7 status`: who is probed, and whose zones are old."""
    lines = [f"{len(roster.targets)} servers probed, {asked.count} zones"]
    if master is not None:
        lines[0] += f", master {config.master} {master}"
    lines += [f"{row['server']} {row['zone']} {row['state']}, behind for {lapse(row['behind'])}"
              for row in behind[:MOST_SUMMED]]
    return lines + ([f"{len(behind) - MOST_SUMMED} more are behind"] if len(behind) > MOST_SUMMED else [])
