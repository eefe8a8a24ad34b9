"""The base of a store: the engine, its transactions, and the methods of each kind of database."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self, TypeVar

from sqlalchemy import Column, Connection, Engine, delete

from replisync.changelog.records import FileRow
from replisync.errors import TargetUnusable
from replisync.standby.database import schema
from replisync.standby.database import tables as t

# The most parameters of one statement; SQLite's limit was 999 for a long time.
_CHUNK = 500

Guard = Callable[[], None]

_T = TypeVar("_T")


def chunks(items: Iterable[_T], size: int = _CHUNK) -> Iterator[list[_T]]:
    """Cut items into lists, by default as long as the parameters of one statement may be."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def askable(connection: Connection, keys: Iterable[str]) -> list[str]:
    """Return those keys that the database can be queried for: texts of PostgreSQL cannot contain a NUL."""
    if connection.dialect.name != "postgresql":
        return list(keys)
    return [key for key in keys if "\0" not in key]


def delete_rows(connection: Connection, column: Column[Any], values: Iterable[Any]) -> None:
    """Delete the rows of a table with these values in a column, any number of them."""
    for some in chunks(values):
        connection.execute(delete(column.table).where(column.in_(some)))


class Database:
    """The database of one target, whatever its tables contain.

    engine: connected to it.
    guard: called inside each writing transaction; raises if we may no longer write the target.
    took_over: whether a lost session of this standby held the lock of the database, and was ended.
    """

    took_over = False

    def __init__(self, engine: Engine, guard: Guard | None = None) -> None:
        self._engine = engine
        self._guard = guard or (lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # Methods of subclasses.

    @contextmanager
    def _translated(self) -> Iterator[None]:
        raise NotImplementedError

    def _make_devpi_tables(self, connection: Connection) -> None:
        raise NotImplementedError

    def _write_rows(self, connection: Connection, rows: list[tuple[int, bytes]]) -> None:
        raise NotImplementedError

    def _write_keys(self, connection: Connection, keys: Iterable[tuple[str, str, int]]) -> None:
        raise NotImplementedError

    def _write_files(self, connection: Connection, rows: Iterable[FileRow]) -> None:
        raise NotImplementedError

    def holds_key(self, key: str) -> bool:  # noqa: ARG002
        """Return whether the database certainly can hold a row of this key."""
        return True

    def _finish_rows(self, connection: Connection, last: int) -> None:
        """Do the last work of a transaction that writes rows up to serial `last`."""

    def _mark_present(self, connection: Connection, present: Mapping[str, int]) -> None:
        raise NotImplementedError

    def back_to_devpi(self) -> None:
        """Put the database into the form that devpi-server creates."""

    def missing_objects(self) -> list[str]:
        """Return the names of devpi-server's tables and indexes that are missing or different.

        And of our own tables that are missing or different.
        """
        raise NotImplementedError

    def foreign_objects(self) -> list[tuple[str, str, str]]:
        """Return kind, name and SQL of foreign objects that would affect our tables."""
        raise NotImplementedError

    def damages(self) -> list[str]:
        """Return the errors in the database's structure, by its own check."""
        return []

    def repair_structure(self) -> None:
        """Remove foreign objects, and rebuild indexes."""
        raise NotImplementedError

    def next_serial(self) -> tuple[int, int] | None:
        """Return the serial that devpi-server would write next, and the correct one.

        None if it is taken from the last entry, which is always correct.
        """
        return None

    def check_server(self) -> None:
        """Check that devpi-server can start on a standby in this database.

        Raises TargetUnusable.
        """

    def check_unused(self) -> None:
        """Check that a database that a clone has not begun to fill is empty.

        Raises TargetUnusable.
        """

    # Transactions.

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            self._guard()
            yield connection

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return the result of `work` in one snapshot; it must be short."""
        with self._reading() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Return the result of `work` in one writing transaction."""
        with self._writing() as connection:
            return work(connection)

    def prepare(self) -> None:
        """Create devpi's tables, and upgrade ours.

        Raises TargetUnusable if a newer replisync wrote them.
        """
        with self._reading() as connection:
            if schema.current_version(connection) == schema.HEAD:
                return
        with self._writing() as connection:
            self._make_devpi_tables(connection)
            schema.upgrade(connection)

    def version(self) -> str | None:
        """Return the version of our tables, or None."""
        with self._reading() as connection:
            return schema.current_version(connection)

    def check_version(self) -> None:
        """Check that we can read the tables.

        Raises TargetUnusable.
        """
        found = self.version()
        if found is None:
            raise TargetUnusable("cannot open the target", "it was not made by replisync")
        if found != schema.HEAD:
            raise TargetUnusable(
                "cannot open the target's database",
                f"its tables have version {found}, but this replisync reads version {schema.HEAD}",
                hint="use the replisync that wrote it; commands that write upgrade older versions",
            )

    def restore_version(self) -> bool:
        """Record the version of our tables again if it is lost and they are of the newest one.

        Returns whether it was lost, and is recorded now.
        """
        if not t.metadata.tables.keys().isdisjoint(self.missing_objects()):
            return False
        with self._writing() as connection:
            return schema.note_version(connection)

    def clear(self) -> None:
        """Remove all data of a clone, in one transaction; keep the record of runs."""
        with self._writing() as connection:
            for table in (*t.devpi_metadata.sorted_tables, *t.metadata.sorted_tables):
                if table is not t.runs:
                    connection.execute(table.delete())
            self._finish_rows(connection, -1)
