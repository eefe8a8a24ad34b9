"""What all of a store stands on: the engine, its transactions, and what a kind of database provides."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine

from replisync.changelog.records import FileRow
from replisync.errors import TargetUnusable
from replisync.standby.database import schema
from replisync.standby.database import tables as t

# How many parameters one statement takes at most; SQLite's bound was 999 for a long time.
_CHUNK = 500

Guard = Callable[[], None]

_T = TypeVar("_T")


def chunks(items: Iterable[str]) -> Iterator[list[str]]:
    """Cut names into lists that fit into one statement."""
    ordered = list(items)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def askable(connection: Connection, keys: Iterable[str]) -> list[str]:
    """Return those of some keys that the database can be asked for: no text of PostgreSQL has a NUL."""
    if connection.dialect.name != "postgresql":
        return list(keys)
    return [key for key in keys if "\0" not in key]


class Database:
    """The database of one target, whatever is in its tables.

    engine: connected to it.
    guard: called inside each writing transaction; raises where the target is no longer ours to write.
    """

    def __init__(self, engine: Engine, guard: Guard | None = None) -> None:
        self._engine = engine
        self._guard = guard or (lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    # What a subclass provides.

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
        """Return whether the database is sure to hold a row of this key."""
        return True

    def _finish_rows(self, connection: Connection, last: int) -> None:
        """Do what must be done last in a transaction that writes rows up to serial `last`."""

    def _mark_present(self, connection: Connection, present: Mapping[str, int]) -> None:
        raise NotImplementedError

    def back_to_devpi(self) -> None:
        """Put the database into the form that devpi-server makes."""

    def missing_objects(self) -> list[str]:
        """Return the names of what devpi-server makes in a database and is not there, or is another.

        And of our own tables that are not there, or others.
        """
        raise NotImplementedError

    def foreign_objects(self) -> list[tuple[str, str, str]]:
        """Return kind, name and SQL of what would meddle with our tables, and nobody of us makes."""
        raise NotImplementedError

    def damages(self) -> list[str]:
        """Return what is wrong with the database's structure, as far as it tells by itself."""
        return []

    def mend_structure(self) -> None:
        """Remove what meddles with our tables, and make anew what is made of them."""
        raise NotImplementedError

    def next_serial(self) -> tuple[int, int] | None:
        """Return the serial that devpi-server would write next, and the one that it should be.

        None where it goes by the last entry, which is never wrong.
        """
        return None

    def check_unused(self) -> None:
        """Make sure that a database that a clone did not begin to fill holds nobody's data.

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
        """Return what `work` finds in one snapshot; it must be short."""
        with self._reading() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` does in one transaction that writes."""
        with self._writing() as connection:
            return work(connection)

    def prepare(self) -> None:
        """Make devpi's tables and bring ours up to date.

        Raises TargetUnusable if a newer replisync wrote them.
        """
        with self._reading() as connection:
            if schema.current_version(connection) == schema.HEAD:
                return
        with self._writing() as connection:
            self._make_devpi_tables(connection)
            schema.upgrade(connection)

    def version(self) -> str | None:
        """Return the version of our tables, or None where there are none."""
        with self._reading() as connection:
            return schema.current_version(connection)

    def check_version(self) -> None:
        """Refuse a database whose tables are not the ones that we read.

        Raises TargetUnusable.
        """
        found = self.version()
        if found is None:
            raise TargetUnusable("cannot open the target", "it was not made by replisync")
        if found != schema.HEAD:
            raise TargetUnusable(
                "cannot open the target's database",
                f"its tables have version {found}, and this replisync reads version {schema.HEAD}",
                hint="use the replisync that wrote it; a command that writes brings older ones up to date",
            )

    def restore_version(self) -> bool:
        """Write down again of which version our tables are, where that is lost and they are the newest's.

        Returns whether it was lost, and is written down.
        """
        if not t.metadata.tables.keys().isdisjoint(self.missing_objects()):
            return False
        with self._writing() as connection:
            return schema.note_version(connection)

    def clear(self) -> None:
        """Forget all that a clone brought, in one transaction; the runs are remembered."""
        with self._writing() as connection:
            for table in (*t.devpi_metadata.sorted_tables, *t.metadata.sorted_tables):
                if table is not t.runs:
                    connection.execute(table.delete())
            self._finish_rows(connection, -1)
