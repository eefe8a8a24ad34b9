"""Repair of rows that differ from the history, in one transaction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, func, insert, select

from replisync.changelog.records import Fault, FileRow
from replisync.standby.database import tables as t
from replisync.standby.database import witnesses
from replisync.standby.database.engine import chunks, delete_rows

# The number of entries to hold at a time.
_ENTRIES = 50


@dataclass(slots=True)
class Repairs:
    """The rows to repair.

    entries: serials and data, replacing existing entries.
    keys, gone_keys: correct rows of keys, and keys without a row.
    files, gone_files: the same of the ledger.
    faults: files that could not be fetched.
    adopt: whether entries after our last commit become ours.
    end: the last serial that can have been committed, if the timeline names later ones.
    seed: the last serial of an export that the history began with, at which a commit ended; -1 for none.
    witnesses: of entries that come from the primary, or were compared with its own, by serial.
    """

    entries: Iterable[tuple[int, bytes]] = ()
    keys: Iterable[tuple[str, str, int]] = ()
    gone_keys: Iterable[str] = ()
    files: Iterable[FileRow] = ()
    gone_files: Iterable[str] = ()
    faults: list[Fault] = field(default_factory=list)
    adopt: bool = False
    end: int | None = None
    seed: int = -1
    witnesses: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Writers:
    """The methods of a store that write many rows."""

    rows: Callable[[Connection, list[tuple[int, bytes]]], None]
    keys: Callable[[Connection, Iterable[tuple[str, str, int]]], None]
    files: Callable[[Connection, Iterable[FileRow]], None]


def write(connection: Connection, repairs: Repairs, writers: Writers, now: str) -> int:
    """Write the rows; return the changelog's last serial then."""
    for entries in chunks(repairs.entries, _ENTRIES):
        delete_rows(connection, t.changelog.c.serial, [serial for serial, _ in entries])
        writers.rows(connection, entries)
    delete_rows(connection, t.kv.c.key, repairs.gone_keys)
    for keys in chunks(repairs.keys):
        writers.keys(connection, keys)
    for paths in chunks(repairs.gone_files):
        for column in (t.files.c.relpath, t.faults.c.relpath):
            delete_rows(connection, column, paths)
    for files in chunks(repairs.files):
        paths = [file[0] for file in files]
        # A demanded file must not be moved away any more, and its earlier fault is over.
        for column in (t.pending.c.relpath, t.faults.c.relpath):
            delete_rows(connection, column, paths)
        writers.files(connection, files)
    if repairs.end is not None:
        connection.execute(delete(t.timeline).where(t.timeline.c.serial > repairs.end))
    last = connection.execute(select(func.max(t.changelog.c.serial))).scalar()
    committed = connection.execute(select(func.max(t.timeline.c.serial))).scalar()
    if repairs.adopt and last is not None and (committed is None or committed < last):
        known = -1 if committed is None else committed
        for serial in {last, *(() if repairs.seed <= known else (min(repairs.seed, last),))}:
            connection.execute(insert(t.timeline).values(serial=serial, committed_at=now))
    witnesses.put(connection, repairs.witnesses)
    return -1 if last is None else int(last)
