"""Rows with invalid values, as a bad disk or a foreign writer leaves them.

SQLite stores any kind of value in any column, and any bytes as text: such rows cannot be read normally. They
are found by queries that do not decode their values, hidden from all other readers, and repaired or removed;
removed ones are rebuilt from the history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, Table, text

from replisync.changelog.records import ABSENT, ARRIVE, HELD, MIRROR, PRESENT, SKIPPED, UNFETCHABLE, WANTED
from replisync.standby.database import tables as t
from replisync.standby.database.store import Store

_SQLITE = "sqlite"

# The source is judged elsewhere: without its one row there is no standby.
_TABLES: tuple[Table, ...] = (
    *t.devpi_metadata.sorted_tables,
    *(table for table in t.metadata.sorted_tables if table is not t.source),
)

_TIMES = frozenset(
    {
        "committed_at",
        "contacted_at",
        "in_sync_at",
        "found_at",
        "started",
        "finished",
        "next_try",
        "retained_at",
        "overdue_at",
    }
)

_TIME = "a time"
_A_PATH = "a path below the folder of files"
_A_NAME = "a name"

# Words that no text of ours contains.
_WORDS = {
    t.files.c.state: (WANTED, PRESENT, ABSENT),
    t.faults.c.kind: (HELD, MIRROR, UNFETCHABLE, SKIPPED),
    t.pending.c.action: ("drop", "replace", ARRIVE),
}

# Paths of files, and names in our folders: operations on them must stay in these folders. A key, and a fault,
# may have any name.
_PATHS = (t.files.c.relpath, t.pending.c.relpath, t.retained.c.relpath)
_NAMES = (t.pending.c.staged, t.retained.c.stored_as)

# More repairs of one row than are possible: each repairs the first of its invalid columns.
_PASSES = 20


@dataclass(frozen=True, slots=True)
class OddRow:
    """A row with an invalid value.

    place: its address in the database.
    name: its key, as far as it can be shown.
    column, expected, found: the invalid value; None for a missing one.
    """

    table: str
    place: int | str
    name: str
    column: str
    expected: str
    found: str | None


def odd_rows(store: Store, *, texts: bool = False) -> list[OddRow]:
    """Return the rows with invalid values, with one snapshot for each table.

    texts: whether to check texts too, which takes longest.
    """
    missing = set(store.missing_objects())
    found: list[OddRow] = []
    for table in _TABLES:
        if table.name not in missing:
            found += store.read(partial(_of_table, table=table, texts=texts))
    return found


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == _SQLITE


# Values that no row of ours or of devpi-server's ever had.


def _of_table(connection: Connection, table: Table, *, texts: bool) -> list[OddRow]:
    sqlite = _is_sqlite(connection)
    wrong = _wrongs(table, sqlite=sqlite, texts=texts)
    if not wrong:
        return []
    if sqlite:
        driver: Any = connection.connection.driver_connection
        driver.create_function("replisync_is_text", 1, _is_text, deterministic=True)
    name = next(iter(table.primary_key.columns)).name
    where, shown = ("rowid", "CAST({} AS BLOB)") if sqlite else ("ctid::text", "CAST({} AS TEXT)")
    which = " ".join(f"WHEN {how} THEN {number}" for number, (_, how, _) in enumerate(wrong))
    # An empty value must not count as missing, as SQLite treats a part of it.
    value = " ".join(
        f"WHEN {column.name} IS NOT NULL AND {how} THEN "
        f"coalesce(substr({shown.format(column.name)}, 1, 60), '')"
        for column, how, _ in wrong
    )
    query = (
        f"SELECT {where}, {shown.format(name)}, CASE {which} END, CASE {value} END "  # noqa: S608
        # Past the view that hides such rows.
        f"FROM {'main.' if sqlite else ''}{table.name} WHERE ({' OR '.join(how for _, how, _ in wrong)})"
    )
    return [
        OddRow(table.name, at, _shown(key), column.name, expected, None if found is None else _shown(found))
        for at, key, number, found in connection.execute(text(query))
        for column, _, expected in [wrong[number]]
    ]


@cache
def _wrongs(table: Table, *, sqlite: bool, texts: bool) -> tuple[tuple[Column[object], str, str], ...]:
    """Return the invalid conditions of a table's columns: the column, the condition, the expected value."""
    found = [(column, *one) for column in table.columns for one in _conditions(column, sqlite=sqlite)]
    for column in filter(_is_of_text, table.columns) if sqlite and texts else ():
        # Plain ASCII is always text, which SQLite checks fastest; it stops at a NUL.
        strange = f"({column.name} GLOB '*[^ -~]*' OR instr({column.name}, char(0)))"
        no_text = f"{strange} AND NOT replisync_is_text(CAST({column.name} AS BLOB))"
        found.append((column, f"({no_text})", "text in UTF-8"))
    return tuple(found)


def _conditions(column: Column[object], *, sqlite: bool) -> Iterator[tuple[str, str]]:
    """Yield the invalid conditions of a column, and the expected value."""
    name = column.name
    if sqlite:
        kinds, expected = _kinds(column)
        nothing = "" if column.primary_key or not column.nullable else ", 'null'"
        yield f"typeof({name}) NOT IN ({kinds}{nothing})", expected
    if name in _TIMES:
        form = (
            "GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*'"
            if sqlite
            else "~ '^[0-9]{4}(-[0-9]{2}){2}T'"
        )
        yield f"({name} IS NOT NULL AND NOT {name} {form})", _TIME
    if column in _WORDS:
        words = ", ".join(f"'{word}'" for word in _WORDS[column])
        yield f"{name} NOT IN ({words})", f"one of {words}"
    if name == "serial" and column.table in (t.changelog, t.timeline):
        # The range of a column in PostgreSQL, and in devpi-server.
        yield f"{name} NOT BETWEEN 0 AND {2**31 - 1}", "a serial from 0 on"
    if column in _PATHS:
        whole = f"('/' || {name} || '/')"
        # SQLite checks fastest that no component begins with these.
        maybe = f"{whole} GLOB '*/[./]*' AND " if sqlite else ""
        yield f"({maybe}{_contains(whole, ('//', '/./', '/../'), sqlite=sqlite)})", _A_PATH
    elif column in _NAMES:
        yield f"({name} IN ('', '.', '..') OR {_contains(name, ('/',), sqlite=sqlite)})", _A_NAME
    if sqlite and column in (*_PATHS, *_NAMES):
        yield f"instr({name}, char(0)) > 0", "text without a NUL"


def _contains(text_of: str, parts: Sequence[str], *, sqlite: bool) -> str:
    function = "instr" if sqlite else "strpos"
    return f"({' OR '.join(f'''{function}({text_of}, '{part}') > 0''' for part in parts)})"


def _kinds(column: Column[object]) -> tuple[str, str]:
    if isinstance(column.type, LargeBinary):
        return "'blob'", "bytes"
    if isinstance(column.type, Float):
        return "'real', 'integer'", "a number"
    if isinstance(column.type, Integer):
        return "'integer'", "a number"
    return "'text'", "text"


def _is_of_text(column: Column[object]) -> bool:
    return _kinds(column)[1] == "text"


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return bytes(value)[:60].decode(errors="backslashreplace")
    return str(value)


# Hiding them from other readers.


def hide(store: Store, rows: list[OddRow]) -> None:
    """Hide these rows from a store that only reads; with SQLite they could not be read otherwise."""

    def work(connection: Connection) -> None:
        if not _is_sqlite(connection):
            return
        _show(connection)
        connection.execute(text("CREATE TEMP TABLE replisync_odd (name TEXT, place INTEGER)"))
        places = [{"name": row.table, "place": row.place} for row in rows]
        if places:
            connection.execute(text("INSERT INTO replisync_odd VALUES (:name, :place)"), places)
        for name in {row.table for row in rows}:
            connection.execute(
                text(
                    f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} "  # noqa: S608
                    f"WHERE rowid NOT IN (SELECT place FROM temp.replisync_odd WHERE name = '{name}')"
                )
            )
        connection.commit()

    store.read(work)


def show(store: Store) -> None:
    """Show a store all rows again."""

    def work(connection: Connection) -> None:
        if _is_sqlite(connection):
            _show(connection)
            connection.commit()

    store.read(work)


def _show(connection: Connection) -> None:
    names = connection.execute(text("SELECT type, name FROM sqlite_temp_master")).all()
    known = {table.name for table in _TABLES} | {"replisync_odd"}
    for kind, name in names:
        if name in known:
            connection.execute(text(f"DROP {kind} temp.{name}"))


# Repairing them.


def repair(store: Store, now: str) -> bool:
    """Repair all invalid rows that can be repaired, and remove the others.

    now: replaces times that are lost.
    Returns whether none remains, as one may in a damaged page.
    """

    def work(connection: Connection, rows: list[OddRow]) -> None:
        # In order: the time of a commit becomes that of the previous one, which must be valid by then.
        for row in rows:
            _repair(connection, row, now)

    show(store)
    for _ in range(_PASSES):
        rows = odd_rows(store, texts=True)
        if not rows:
            return True
        store.write(partial(work, rows=rows))
    return False


def _repair(connection: Connection, row: OddRow, now: str) -> None:
    sqlite = _is_sqlite(connection)
    where = f"{'rowid' if sqlite else 'ctid::text'} = :place"
    values: dict[str, object] = {"place": row.place}
    name = row.table
    how = _NEW_VALUES.get((name, row.column))
    statement = f"DELETE FROM {name} WHERE {where}"  # noqa: S608
    if how is not None:
        statement = f"UPDATE {name} SET {row.column} = {how} WHERE {where}"  # noqa: S608
        values |= {"now": now} if ":now" in how else {}
    connection.execute(text(statement), values)


# Values that cannot be rebuilt from the history, and are needed.
_NEW_VALUES = {
    ("changelog", "data"): "CAST(data AS BLOB)",  # the same bytes; they are checked later
    # A file that has arrived has a size; its presence is checked later. Others are requested.
    ("replisync_files", "state"): "CASE WHEN size IS NULL THEN 'wanted' ELSE 'present' END",
    # No file has this size, so that one that is recorded as present is fetched again.
    ("replisync_files", "size"): "CASE WHEN state = 'present' THEN -1 END",
    ("replisync_files", "reason"): "NULL",  # it is lost, so that the file is requested
    ("replisync_timeline", "committed_at"): (
        "coalesce((SELECT max(b.committed_at) FROM replisync_timeline b "
        "WHERE b.serial < replisync_timeline.serial AND b.committed_at < ':'), :now)"
    ),
    ("replisync_timeline", "witnesses"): "NULL",  # until the entries are compared with the primary's
    ("replisync_retained", "retained_at"): ":now",
    ("replisync_retained", "overdue_at"): "NULL",  # the next check finds it again
    ("replisync_faults", "next_try"): ":now",
    ("replisync_faults", "tries"): "1",
}
