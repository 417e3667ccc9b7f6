"""`ns7 doctor`: looks at this host and tells what is wrong, why it matters, and the command that mends it.

A check is a row of a table: `gather` collects facts and touches nothing, `judge` is pure (`component.Check`). The
core's table is in `checks`; a component has its own. Each check runs in a thread of its own with a deadline of its own,
and a check that cannot be made is a finding too.

`kernel` reads /proc, netlink and sock_diag; `gathering` makes facts of it; `addresses`, `limits`, `mail`, `named`,
`ports` and `traffic` judge; `clock` asks a name server what time it is; `site` is what a check is given.
"""

from __future__ import annotations

from balancer.doctor.running import Result, examine

__all__ = ["Result", "examine"]
