"""Revert serials: each key gets its previous serial, by the back serials of the reverted entries."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from sqlalchemy import Connection, delete, func, insert, select

from replisync.changelog.witness import kept_until
from replisync.devpi.entries import parse_stored
from replisync.errors import CorruptEntry, TargetUnusable
from replisync.standby.database import tables as t
from replisync.standby.database.engine import askable, delete_rows
from replisync.standby.database.filestates import forget_faults

# The number of entries to hold at a time.
_ENTRIES = 100

# No values are needed, so build none.
_NO_KINDS: frozenset[str] = frozenset()

_DAMAGED_HINT = "the standby's own history is damaged: clone into an empty serverdir"

WriteKeys = Callable[[Connection, Iterable[tuple[str, str, int]]], None]


def damaged(serial: int, why: str) -> TargetUnusable:
    """Return the error for an entry of ours that cannot be used."""
    return TargetUnusable("cannot rewind the standby", why, serial=serial, hint=_DAMAGED_HINT)


def entries_behind(connection: Connection, serial: int, before: int) -> list[tuple[int, bytes]]:
    """Return entries after `serial`, the last ones below `before` first, a limited number of them."""
    column = t.changelog.c.serial
    query = select(column, t.changelog.c.data).where(column > serial, column < before)
    rows = connection.execute(query.order_by(column.desc()).limit(_ENTRIES))
    return [(row[0], bytes(row[1])) for row in rows]


def undo_keys(connection: Connection, last: int, serial: int, write_keys: WriteKeys) -> None:
    """Give each key that entries after `serial` changed the serial that it had at `serial`.

    last: of the changelog.
    Raises TargetUnusable if the back serials do not lead there.
    """
    for rows in _pages(connection, last, serial):
        keys: dict[str, tuple[str, int]] = {}
        # From the last one down, so that the value before the first one remains.
        for number, data in rows:
            try:
                changes = parse_stored(number, data, kinds=_NO_KINDS).changes
            except CorruptEntry as err:
                raise damaged(number, err.why) from err
            for relpath, change in changes.items():
                keys[relpath] = (change.keyname, change.back_serial)
        _check_back_serials(connection, keys, serial)
        write_keys(connection, ((path, name, back) for path, (name, back) in keys.items() if back >= 0))
        gone = [path for path, (_, back) in keys.items() if back < 0]
        delete_rows(connection, t.kv.c.key, askable(connection, gone))
    beyond = connection.execute(select(func.min(t.kv.c.serial)).where(t.kv.c.serial > serial)).scalar()
    if beyond is not None:
        raise damaged(beyond, "a key's back serials do not lead to a remaining entry")


def _pages(connection: Connection, last: int, serial: int) -> Iterator[list[tuple[int, bytes]]]:
    before = last + 1
    while rows := entries_behind(connection, serial, before):
        yield rows
        before = rows[-1][0]


def _check_back_serials(connection: Connection, keys: dict[str, tuple[str, int]], serial: int) -> None:
    """Check that the remaining entries contain the keys that now point at them.

    A devpi-server fails on a key that is not in the entry of its serial.
    Raises TargetUnusable.
    """
    named = defaultdict(list)
    for relpath, (_, back) in keys.items():
        if 0 <= back <= serial:
            named[back].append(relpath)
    for number, relpaths in named.items():
        data = connection.execute(select(t.changelog.c.data).where(t.changelog.c.serial == number)).scalar()
        try:
            changes = parse_stored(number, bytes(data or b""), kinds=_NO_KINDS).changes
        except CorruptEntry as err:
            raise damaged(number, err.why) from err
        for relpath in relpaths:
            if relpath not in changes:
                raise damaged(number, f"it has no {relpath}, although a back serial names it")


def cut(connection: Connection, serial: int) -> None:
    """Remove everything after `serial`: entries, commits, faults, and a divergence found there."""
    column = t.timeline.c.serial
    query = select(t.timeline).where(column >= serial).order_by(column).limit(1)
    commit = connection.execute(query).one()
    # Cut the stored witnesses: do not compute them from stored entries, which may be damaged.
    left = None if commit.witnesses is None else kept_until(serial, commit.serial, bytes(commit.witnesses))
    connection.execute(delete(t.timeline).where(column >= serial))
    # The last commit is at the last serial, which was true when its batch was committed.
    row = {"serial": serial, "committed_at": commit.committed_at, "witnesses": left}
    connection.execute(insert(t.timeline).values(**row))
    connection.execute(delete(t.changelog).where(t.changelog.c.serial > serial))
    # Such a fault may be of a file that an older serial wants too, and that waited for a later content.
    forget_faults(connection, t.faults.c.serial > serial)
    connection.execute(delete(t.divergence).where(t.divergence.c.fork_serial >= serial))
