"""The age of retained files, in time that the standby lived through.

The system clock may jump by any number of days, and must not decide alone when files are removed for good. So
lived time is summed up from one check to the next, and the retention of each file counts from the first check
that finds it: it may stay longer for that, but never goes too early.
"""

import math
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from replisync.standby.database import tables as t
from replisync.system import clock
from replisync.system.clock import Moment

# How far to believe the system clock between two checks if nothing else is known: after a reboot, or a move
# of the serverdir to another machine. A clock that comes up wrong then costs no more than this.
_BELIEVED_SECONDS = 86400.0


def retained_beyond(connection: Connection, now: Moment, seconds: float) -> list[str]:
    """Return the names of files retained for at least `seconds` of lived time, counted up to now."""
    lived = _live(connection, now)
    # A start in the future was recorded by a lost record: start again.
    new = or_(t.retained.c.lived_at.is_(None), t.retained.c.lived_at > lived)
    connection.execute(update(t.retained).where(new).values(lived_at=lived))
    query = select(t.retained.c.stored_as).where(t.retained.c.lived_at <= lived - seconds)
    return list(connection.execute(query).scalars())


def _live(connection: Connection, now: Moment) -> float:
    row = connection.execute(select(t.lived)).first()
    known = _read(row.lived, row.wall_at, row.boot, row.boottime) if row is not None else None
    lived = 0.0 if known is None else known[0] + lived_between(known[1], now)
    connection.execute(t.lived.delete())
    values = {"lived": lived, "wall_at": now.wall, "boot": now.boot, "boottime": now.boottime}
    connection.execute(insert(t.lived).values(id=1, **values))
    return lived


def _read(lived: Any, wall: Any, boot: Any, boottime: Any) -> tuple[float, Moment] | None:
    """Return the lived time and its moment; None if a bad disk damaged them."""
    for seconds in (lived, boottime):
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            return None
    if not isinstance(wall, str) or not clock.is_time(wall):
        return None
    return float(lived), Moment(wall, boot if isinstance(boot, str) else None, float(boottime))


def lived_between(before: Moment, now: Moment) -> float:
    """Return the seconds lived between two moments, as far as they can be believed."""
    if before.boot is not None and before.boot == now.boot and now.boottime >= before.boottime:
        return now.boottime - before.boottime
    wall = datetime.fromisoformat(now.wall) - datetime.fromisoformat(before.wall)
    return min(max(0.0, wall.total_seconds()), _BELIEVED_SECONDS)
