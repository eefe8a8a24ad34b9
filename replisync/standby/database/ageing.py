"""How old what is retained is, in time that was lived through.

The system clock may jump by any number of days, and what it says must not decide alone on what is removed for
good. So the time that the standby lived is added up from one look to the next, and the time of each retained
file counts from the first look that finds it: it may stay longer for that, and does not go too early.
"""

import math
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from replisync.standby.database import tables as t
from replisync.system import clock
from replisync.system.clock import Moment

# What the system clock is believed between two looks where nothing else tells: after the machine was started
# anew, or the serverdir went to another one. A clock that comes up wrong then costs no more than this.
_BELIEVED_SECONDS = 86400.0


def retained_beyond(connection: Connection, now: Moment, seconds: float) -> list[str]:
    """Return the names of what is retained for at least so many seconds of lived time, counted up to now."""
    lived = _live(connection, now)
    # What is counted from a time to come was counted by a record that is lost: it begins anew.
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
    """Return the lived time and its moment, or None where a bad disk left what is none."""
    for seconds in (lived, boottime):
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            return None
    if not isinstance(wall, str) or not clock.is_time(wall):
        return None
    return float(lived), Moment(wall, boot if isinstance(boot, str) else None, float(boottime))


def lived_between(before: Moment, now: Moment) -> float:
    """Return how many seconds were lived through between two moments, as far as that can be believed."""
    if before.boot is not None and before.boot == now.boot and now.boottime >= before.boottime:
        return now.boottime - before.boottime
    wall = datetime.fromisoformat(now.wall) - datetime.fromisoformat(before.wall)
    return min(max(0.0, wall.total_seconds()), _BELIEVED_SECONDS)
