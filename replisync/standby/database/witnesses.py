"""The witnesses of entries in the rows of commits; see changelog.witness."""

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, func, select, update

from replisync.changelog.witness import by_serial, replaced
from replisync.standby.database import tables as t


def of_entries(connection: Connection, first: int, last: int) -> dict[int, bytes]:
    """Return the witnesses of the entries from `first` to `last`; omit entries without one."""
    found: dict[int, bytes] = {}
    for _, serial, data in _commits(connection, first, last):
        found |= by_serial(serial, data)
    return {serial: one for serial, one in found.items() if first <= serial <= last}


def put(connection: Connection, new: Mapping[int, bytes]) -> None:
    """Record the witnesses of entries, each with its commit.

    new: computed from bytes that come from the primary, or were just compared with the primary's; by serial.
    """
    if not new:
        return
    column = t.timeline.c.serial
    last = connection.execute(select(func.max(t.changelog.c.serial))).scalar()
    for before, serial, data in list(_commits(connection, min(new), max(new))):
        # A damaged row may claim any number of entries.
        end = serial if last is not None and serial <= last else before
        some = {one: new[one] for one in range(before + 1, end + 1) if one in new}
        if some:
            changed = replaced(before, serial, data, some)
            connection.execute(update(t.timeline).where(column == serial).values(witnesses=changed))


def _commits(connection: Connection, first: int, last: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield the commits of some serials: the last serial before each, its own last one, and its witnesses."""
    column = t.timeline.c.serial
    found = connection.execute(select(func.max(column)).where(column < first)).scalar()
    before = -1 if found is None else int(found)
    upper = func.coalesce(select(func.min(column)).where(column >= last).scalar_subquery(), last)
    query = select(column, t.timeline.c.witnesses).where(column > before, column <= upper).order_by(column)
    for serial, data in connection.execute(query).all():
        yield before, serial, None if data is None else bytes(data)
        before = serial
