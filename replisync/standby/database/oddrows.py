"""Rows that hold what cannot be in them, as a bad disk or another's hand leaves them.

SQLite stores any kind of value in any column, and any bytes as text: such rows cannot be read as what they
are said to be. They are found by questions that read none of their values as such, hidden from those who look
at everything else, and set right or removed; what is removed is made anew from the history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, Table, text

from replisync.changelog.records import ABSENT, ARRIVE, PRESENT, WANTED
from replisync.standby.database import tables as t
from replisync.standby.database.store import Store

_SQLITE = "sqlite"

# The source has a judge of its own: without its one row there is no standby.
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

# Words that are no text of anybody's.
_WORDS = {
    t.files.c.state: (WANTED, PRESENT, ABSENT),
    t.faults.c.kind: ("held", "mirror", "unfetchable", "skipped"),
    t.pending.c.action: ("drop", "replace", ARRIVE),
}

# Paths of files, and names in folders of ours: what is done with them must stay in these folders. A key, and
# a fault, may have any name.
_PATHS = (t.files.c.relpath, t.pending.c.relpath, t.retained.c.relpath)
_NAMES = (t.pending.c.staged, t.retained.c.stored_as)

# No row was ever mended so often: each time the first column of it that is wrong is set right.
_PASSES = 20


@dataclass(frozen=True, slots=True)
class OddRow:
    """A row that holds what cannot be in it.

    place: where the database has it.
    name: its key, as far as that can be shown.
    column, expected, found: what is wrong with it; None for nothing in the place of something.
    """

    table: str
    place: int | str
    name: str
    column: str
    expected: str
    found: str | None


def odd_rows(store: Store, *, texts: bool = False) -> list[OddRow]:
    """Return the rows that hold what cannot be in them, in one snapshot for each table.

    texts: whether texts are read too, which takes longest.
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
    # What is empty must not be taken for nothing, as SQLite does with a part of it.
    value = " ".join(
        f"WHEN {column.name} IS NOT NULL AND {how} THEN "
        f"coalesce(substr({shown.format(column.name)}, 1, 60), '')"
        for column, how, _ in wrong
    )
    query = (
        f"SELECT {where}, {shown.format(name)}, CASE {which} END, CASE {value} END "  # noqa: S608
        # Past the view that hides the odd ones.
        f"FROM {'main.' if sqlite else ''}{table.name} WHERE ({' OR '.join(how for _, how, _ in wrong)})"
    )
    return [
        OddRow(table.name, at, _shown(key), column.name, expected, None if found is None else _shown(found))
        for at, key, number, found in connection.execute(text(query))
        for column, _, expected in [wrong[number]]
    ]


@cache
def _wrongs(table: Table, *, sqlite: bool, texts: bool) -> tuple[tuple[Column[object], str, str], ...]:
    """Return what must not be true of a table's columns: the column, how that is asked, what is expected."""
    found = [(column, *one) for column in table.columns for one in _conditions(column, sqlite=sqlite)]
    for column in filter(_is_of_text, table.columns) if sqlite and texts else ():
        # Whatever is plain ASCII is a text, which SQLite tells fastest; it stops at a NUL.
        strange = f"({column.name} GLOB '*[^ -~]*' OR instr({column.name}, char(0)))"
        no_text = f"{strange} AND NOT replisync_is_text(CAST({column.name} AS BLOB))"
        found.append((column, f"({no_text})", "text in UTF-8"))
    return tuple(found)


def _conditions(column: Column[object], *, sqlite: bool) -> Iterator[tuple[str, str]]:
    """Yield what must not be true of a column, and what is expected instead."""
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
        # As far as a column of PostgreSQL, and devpi-server, go.
        yield f"{name} NOT BETWEEN 0 AND {2**31 - 1}", "a serial from 0 on"
    if column in _PATHS:
        whole = f"('/' || {name} || '/')"
        # SQLite tells fastest that no part begins in such a way.
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


# Hiding them from whoever looks at all the others.


def hide(store: Store, rows: list[OddRow]) -> None:
    """Let a store that only reads see all rows but these; with SQLite alone they could not be read."""

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
    """Let a store see all rows again."""

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


# Setting them right.


def mend(store: Store, now: str) -> bool:
    """Set all odd rows right that can be, and remove the others.

    now: stands in for a time that nobody knows any more.
    Returns whether none is left, as one may be in a damaged page.
    """

    def work(connection: Connection, rows: list[OddRow]) -> None:
        # In their order: the time of a commit becomes that of the one before, which must be right by then.
        for row in rows:
            _mend(connection, row, now)

    show(store)
    for _ in range(_PASSES):
        rows = odd_rows(store, texts=True)
        if not rows:
            return True
        store.write(partial(work, rows=rows))
    return False


def _mend(connection: Connection, row: OddRow, now: str) -> None:
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


# What is not made anew from the history, and would be missed.
_NEW_VALUES = {
    ("changelog", "data"): "CAST(data AS BLOB)",  # the same bytes; what they are is judged afterwards
    # What has arrived has a size; whether it is there is judged afterwards. What has not is asked for.
    ("replisync_files", "state"): "CASE WHEN size IS NULL THEN 'wanted' ELSE 'present' END",
    # No file has such a size, so that one which is said to be here is brought again.
    ("replisync_files", "size"): "CASE WHEN state = 'present' THEN -1 END",
    ("replisync_files", "reason"): "NULL",  # nobody knows it any more, so that the file is asked for
    ("replisync_timeline", "committed_at"): (
        "coalesce((SELECT max(b.committed_at) FROM replisync_timeline b "
        "WHERE b.serial < replisync_timeline.serial AND b.committed_at < ':'), :now)"
    ),
    ("replisync_timeline", "witnesses"): "NULL",  # until the entries are compared with the primary's
    ("replisync_retained", "retained_at"): ":now",
    ("replisync_retained", "overdue_at"): "NULL",  # the next look finds it again
    ("replisync_faults", "next_try"): ":now",
    ("replisync_faults", "tries"): "1",
}
