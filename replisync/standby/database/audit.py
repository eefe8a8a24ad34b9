"""The queries of a verification: each call is one short snapshot.

No call holds a snapshot for longer than a page, so that a writer never waits and the log of SQLite does not
grow while a large standby is verified.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, UnaryExpression, and_, func, or_, select, true

from replisync.changelog.records import Pending, Retained
from replisync.standby.database import filestates as states
from replisync.standby.database import tables as t
from replisync.standby.database import witnesses as proofs
from replisync.standby.database.engine import askable, chunks
from replisync.standby.database.store import Store

# A page of entries ends with the one that makes it this large, in bytes.
_PAGE_BYTES = 4 * 1024 * 1024

_KEYS = select(t.kv.c.key, t.kv.c.keyname, t.kv.c.serial)


class Position(NamedTuple):
    """The end of the changelog, and of our last commit; -1 for nothing."""

    last: int
    committed: int


class Serials(NamedTuple):
    """The number of entries, and the first and last of them; -1 for none."""

    number: int
    first: int
    last: int


class Key(NamedTuple):
    """A row of devpi's table of keys."""

    key: str
    keyname: str | None
    serial: int | None


class LedgerFile(NamedTuple):
    """A row of the ledger of files; digest is "" for none."""

    relpath: str
    serial: int
    digest: str
    state: str
    size: int | None


class KeyNow(NamedTuple):
    """The state of a key at one moment.

    row: None if it has none.
    last: the changelog's last serial.
    data: the requested entries, by serial.
    """

    row: Key | None
    last: int
    data: dict[int, bytes]


def position(store: Store) -> Position:
    """Return the ends of the changelog and of our timeline."""
    return store.read(_position)


def _position(connection: Connection) -> Position:
    last = connection.execute(select(func.max(t.changelog.c.serial))).scalar()
    committed = connection.execute(select(func.max(t.timeline.c.serial))).scalar()
    return Position(-1 if last is None else last, -1 if committed is None else committed)


def serials(store: Store) -> Serials:
    """Count the entries."""
    column = t.changelog.c.serial
    query = select(func.count(), func.min(column), func.max(column))
    number, first, last = store.read(lambda connection: connection.execute(query).one())
    return Serials(number, -1 if first is None else first, -1 if last is None else last)


def gap_after(store: Store, serial: int) -> int | None:
    """Return the first serial after a missing one; None if all are there up to the last one."""
    page = 50_000
    due = serial + 1
    while True:
        found = store.read(_serials_from(due, page))
        for number in found:
            if number != due:
                return due
            due += 1
        if len(found) < page:
            return None


def _serials_from(first: int, limit: int) -> Callable[[Connection], list[int]]:
    column = t.changelog.c.serial
    query = select(column).where(column >= first).order_by(column).limit(limit)
    return lambda connection: list(connection.execute(query).scalars())


def entries(store: Store, first: int, last: int, limit: int) -> list[tuple[int, bytes]]:
    """Return a page of the entries from `first` to `last`, limited in number and bytes."""
    column = t.changelog.c.serial
    return store.read(_page(column.asc(), and_(column >= first, column <= last), limit))


def newest(store: Store, limit: int) -> list[tuple[int, bytes]]:
    """Return up to `limit` of the last entries, the last one first, also limited in bytes."""
    return store.read(_page(t.changelog.c.serial.desc(), true(), limit))


def _page(
    order: UnaryExpression[int], which: ColumnElement[bool], limit: int
) -> Callable[[Connection], list[tuple[int, bytes]]]:
    column, data = t.changelog.c.serial, t.changelog.c.data

    def read(connection: Connection) -> list[tuple[int, bytes]]:
        # The lengths first: a driver reads all of an answer at once.
        sizes = select(column, func.length(data)).where(which).order_by(order).limit(limit)
        total, serials = 0, []
        for serial, size in connection.execute(sizes):
            serials.append(serial)
            total += size
            if total >= _PAGE_BYTES:
                break
        if not serials:
            return []
        within = column.between(min(serials), max(serials))
        query = select(column, data).where(within).order_by(order)
        return [(serial, bytes(raw)) for serial, raw in connection.execute(query)]

    return read


def witnesses(store: Store, first: int, last: int) -> dict[int, bytes]:
    """Return the witnesses of the entries from `first` to `last`; omit entries without one."""
    return store.read(lambda connection: proofs.of_entries(connection, first, last))


def entry_now(store: Store, serial: int) -> tuple[bytes | None, bytes | None]:
    """Return an entry and its witness; None for a missing one."""

    def read(connection: Connection) -> tuple[bytes | None, bytes | None]:
        query = select(t.changelog.c.data).where(t.changelog.c.serial == serial)
        data = connection.execute(query).scalar()
        witness = proofs.of_entries(connection, serial, serial).get(serial)
        return None if data is None else bytes(data), witness

    return store.read(read)


def keys(store: Store, after: str | None, limit: int) -> list[Key]:
    """Return up to `limit` rows of keys after `after`, in the order of the database; None for all."""
    query = _KEYS if after is None else _KEYS.where(t.kv.c.key > after)
    return _keys(store, query.order_by(t.kv.c.key).limit(limit))


def _keys(store: Store, query: Select[Any]) -> list[Key]:
    return store.read(lambda connection: [Key._make(row) for row in connection.execute(query)])


def keys_of(store: Store, relpaths: Iterable[str]) -> dict[str, Key]:
    """Return the rows of some keys."""

    def read(connection: Connection) -> dict[str, Key]:
        found: dict[str, Key] = {}
        for paths in chunks(askable(connection, relpaths)):
            rows = connection.execute(_KEYS.where(t.kv.c.key.in_(paths)))
            found |= {row[0]: Key(*row) for row in rows}
        return found

    return store.read(read)


def keys_of_kind(store: Store, keyname: str, upto: int) -> list[Key]:
    """Return the rows of all keys of one kind that no serial after `upto` changed, in the order of serials.

    For kinds with few keys only.
    """
    query = _KEYS.where(t.kv.c.keyname == keyname, t.kv.c.serial <= upto)
    return _keys(store, query.order_by(t.kv.c.serial, t.kv.c.key))


def key_now(store: Store, key: str, more: Iterable[int] = ()) -> KeyNow:
    """Return a key's row, with the entry that it points at and those of some more serials."""

    def read(connection: Connection) -> KeyNow:
        known = t.kv.c.key.in_(askable(connection, [key]))
        row = connection.execute(_KEYS.where(known)).first()
        wanted = {*more, *(() if row is None or row.serial is None else (row.serial,))}
        of_them = select(t.changelog.c.serial, t.changelog.c.data).where(t.changelog.c.serial.in_(wanted))
        data = {serial: bytes(raw) for serial, raw in connection.execute(of_them)}
        return KeyNow(None if row is None else Key(*row), _position(connection).last, data)

    return store.read(read)


def keys_beyond(store: Store, limit: int) -> list[tuple[str, int, int]]:
    """Return up to `limit` keys whose serial is after the last one; and the last one."""
    # In one statement: the last serial moves.
    last = func.coalesce(select(func.max(t.changelog.c.serial)).scalar_subquery(), -1)
    query = select(t.kv.c.key, t.kv.c.serial, last).where(t.kv.c.serial > last).limit(limit)
    return store.read(lambda connection: [tuple(row) for row in connection.execute(query)])


def key_below(store: Store, serial: int) -> int:
    """Return the highest serial of a key below another serial; -1 for none."""
    query = select(func.max(t.kv.c.serial)).where(t.kv.c.serial < serial)
    found = store.read(lambda connection: connection.execute(query).scalar())
    return -1 if found is None else int(found)


# The source.


def tip_now(store: Store) -> tuple[tuple[int, bytes] | None, int, bytes | None]:
    """Return serial and bytes recorded of the primary's last entry, our last serial, and our entry there."""

    def read(connection: Connection) -> tuple[tuple[int, bytes] | None, int, bytes | None]:
        row = connection.execute(select(t.tip.c.serial, t.tip.c.data)).first()
        last = _position(connection).last
        ours = connection.execute(select(t.changelog.c.data).where(t.changelog.c.serial == last)).scalar()
        tip = None if row is None else (row[0], bytes(row[1]))
        return tip, last, None if ours is None else bytes(ours)

    return store.read(read)


def first_commit_at(store: Store) -> str | None:
    """Return the time of our first commit."""
    query = select(t.timeline.c.committed_at).order_by(t.timeline.c.serial).limit(1)
    return store.read(lambda connection: connection.execute(query).scalar())


def cloned_to(store: Store) -> int:
    """Return the serial at which our clone ended; our last one if that is unknown."""
    query = select(func.max(t.runs.c.to_serial)).where(t.runs.c.command == "clone", t.runs.c.to_serial >= 0)

    def read(connection: Connection) -> int:
        last = max(0, _position(connection).last)
        found = connection.execute(query).scalar()
        return last if found is None else min(found, last)

    return store.read(read)


# The ledger.

_LEDGER = (t.files.c.relpath, t.files.c.serial, t.files.c.digest, t.files.c.state, t.files.c.size)


def ledger(store: Store, after: str, limit: int) -> list[LedgerFile]:
    """Return up to `limit` files after `after`, in the order of their paths' bytes."""
    return _files(store, limit, t.files.c.relpath > after)


def _files(store: Store, limit: int, *which: ColumnElement[bool]) -> list[LedgerFile]:
    query = select(*_LEDGER).where(*which).order_by(t.files.c.relpath).limit(limit)
    return store.read(lambda connection: [LedgerFile._make(row) for row in connection.execute(query)])


def has_files_below(store: Store, relpath: str) -> bool:
    """Return whether the ledger has files in a folder."""
    return any(file.relpath.startswith(f"{relpath}/") for file in ledger(store, f"{relpath}/", 1))


def file_now(store: Store, relpath: str) -> tuple[LedgerFile | None, Pending | None]:
    """Return a file's row in the ledger, and the move on disk that it waits for."""

    def read(connection: Connection) -> tuple[LedgerFile | None, Pending | None]:
        row = connection.execute(select(*_LEDGER).where(t.files.c.relpath == relpath)).first()
        columns = (t.pending.c.relpath, t.pending.c.serial, t.pending.c.action, t.pending.c.staged)
        move = connection.execute(select(*columns).where(t.pending.c.relpath == relpath)).first()
        return (None if row is None else LedgerFile(*row)), (None if move is None else Pending(*move))

    return store.read(read)


def unexplained(store: Store, after: str, limit: int) -> list[LedgerFile]:
    """Return up to `limit` files after `after` that are recorded as missing without a reason."""
    return _files(store, limit, states.is_unexplained(), t.files.c.relpath > after)


def unexplained_now(store: Store, relpath: str) -> LedgerFile | None:
    """Return a file's row in the ledger if it is recorded as missing without a reason."""
    return next(iter(_files(store, 1, states.is_unexplained(), t.files.c.relpath == relpath)), None)


def explained(store: Store) -> dict[str, int]:
    """Count the files that are missing with a reason, by state."""
    query = select(t.files.c.state, func.count()).where(states.is_open(), ~states.is_unexplained())
    query = query.group_by(t.files.c.state)
    return store.read(lambda connection: {row[0]: row[1] for row in connection.execute(query)})


def false_drops(store: Store, limit: int) -> list[Pending]:
    """Return up to `limit` notes to drop a file that must stay."""
    here = and_(t.files.c.relpath == t.pending.c.relpath, t.files.c.state == "present")
    columns = (t.pending.c.relpath, t.pending.c.serial, t.pending.c.action, t.pending.c.staged)
    query = select(*columns).join(t.files, here).where(t.pending.c.action == "drop").limit(limit)
    return store.read(lambda connection: [Pending(*row) for row in connection.execute(query)])


def ledger_against_keys(store: Store, limit: int) -> list[tuple[LedgerFile, int | None]]:
    """Return up to `limit` files of the ledger whose key has another serial, with that; None for no key."""
    join = t.files.outerjoin(t.kv, t.kv.c.key == t.files.c.relpath)
    differs = or_(t.kv.c.serial.is_(None), t.kv.c.serial != t.files.c.serial)
    query = select(*_LEDGER, t.kv.c.serial.label("known")).select_from(join).where(differs).limit(limit)
    return store.read(
        lambda connection: [(LedgerFile(*row[:5]), row[5]) for row in connection.execute(query)]
    )


def retained(store: Store, after: str, limit: int) -> list[Retained]:
    """Return up to `limit` rows of retained files, after a name."""
    query = select(t.retained).where(t.retained.c.stored_as > after)
    query = query.order_by(t.retained.c.stored_as).limit(limit)
    return store.read(lambda connection: [Retained(**row) for row in connection.execute(query).mappings()])


def count_of_present(store: Store) -> int:
    """Count the files that are recorded as present."""
    query = select(func.count()).select_from(t.files).where(t.files.c.state == "present")
    return int(store.read(lambda connection: connection.execute(query).scalar_one()))


def rewound_since(store: Store, moment: str) -> bool:
    """Return whether serials were, or are being, reverted since a moment."""
    ended = or_(t.runs.c.finished.is_(None), t.runs.c.finished >= moment)
    query = select(t.runs.c.id).where(t.runs.c.command == "rewind", ended).limit(1)
    # A killed run never ends.
    query = query.where(or_(t.runs.c.outcome != "killed", t.runs.c.started >= moment))
    return store.read(lambda connection: connection.execute(query).first() is not None)
