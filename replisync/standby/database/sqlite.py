"""The store in SQLite, as in devpi-server's storage `sqlite`.

WAL, because readers of a hot standby must not wait for our commits: with the default journal a large batch
takes the exclusive lock as soon as its pages outgrow the cache. With `synchronous=FULL` a commit in WAL is
durable when it returns. The mode is a property of the file, and devpi-server works with it; `promote` reverts
it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.pool import StaticPool

from replisync.changelog.records import PRESENT, FileRow
from replisync.errors import ForeignWriter, NotPermitted, ReplisyncError, TargetUnusable, UnreadableText
from replisync.standby.database.engine import Guard
from replisync.standby.database.store import Store
from replisync.standby.database.tables import metadata, missing_of_ours
from replisync.system.denied import denial_of
from replisync.system.sqlite_errors import error_name, sqlite_error

# As devpi-server's own connections.
_BUSY_SECONDS = 60

# From devpi_server/keyfs_sqlite_fs.py, literally, so that schemas compare equal.
_DEVPI_SCHEMA = {
    "changelog": """
        CREATE TABLE changelog (
            serial INTEGER PRIMARY KEY,
            data BLOB NOT NULL
        )""",
    "kv": """
        CREATE TABLE kv (
            key TEXT NOT NULL PRIMARY KEY,
            keyname TEXT,
            serial INTEGER
        )""",
    "kv_serial_idx": "CREATE INDEX kv_serial_idx ON kv (serial)",
}

_DEVPI_COLUMNS = {"changelog": ["serial", "data"], "kv": ["key", "keyname", "serial"]}

# Few enough for SQLite's limit of 999 parameters in one statement in old builds.
_ROWS_PER_CALL = 160

# An UPDATE with a FROM would do the same, since SQLite 3.33.
_PRESENT = """
    WITH here(relpath, size) AS (VALUES {here})
    INSERT OR REPLACE INTO replisync_files (relpath, serial, digest, state, size)
    SELECT known.relpath, known.serial, known.digest, ?, here.size
    FROM here CROSS JOIN replisync_files AS known ON known.relpath = here.relpath"""

_Row = TypeVar("_Row", bound=tuple[Any, ...])

_ANEW = "restore it, or clone into an empty serverdir"
_HINTS = {
    "SQLITE_NOTADB": _ANEW,
    "SQLITE_CORRUPT": _ANEW,
    "SQLITE_FULL": "the disk is full: make room, then run the command again",
    "SQLITE_BUSY": "another process holds the database: end it, then run the command again",
    "SQLITE_READONLY": "check the owner and the permissions of the serverdir",
    "SQLITE_IOERR": "the disk is full or broken: make room, or look at the kernel's log",
    "SQLITE_CANTOPEN": "check that the serverdir is there, and that its disk has room",
}

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA journal_size_limit = 67108864",
)


class SqliteStore(Store):
    """The store of a serverdir with SQLite."""

    def __init__(
        self,
        path: Path,
        *,
        write: bool = False,
        create: bool = False,
        immutable: bool = False,
        guard: Guard | None = None,
        busy_seconds: float = _BUSY_SECONDS,
    ) -> None:
        """Open the database file `path`.

        write: whether to write to it, which changes its journal.
        create: whether to create it if it is missing.
        immutable: whether its folder is read-only; otherwise SQLite would create its log there.
        busy_seconds: how long to wait for a lock of another process.
        """
        self._path = path
        mode = "rwc" if create else "rw" if write else "ro"
        mode += "&immutable=1" if immutable else ""

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(
                f"file:{quote(str(path))}?mode={mode}",
                uri=True,
                timeout=busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )

        engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _record: Any) -> None:
            for pragma in _PRAGMAS if write else ():
                connection.execute(pragma)

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # The writer takes its lock at once: it must not read a position that moves before it writes.
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN"
            )

        super().__init__(engine, guard)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self._translated(),
            self._engine.execution_options(write=True).begin() as connection,
        ):
            self._guard()
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as err:
            raise self._error(err.orig) from err
        except (sqlite3.Error, UnicodeDecodeError) as err:
            raise self._error(err) from err

    def _error(self, err: BaseException | None) -> ReplisyncError:
        attempted = f"cannot use the target's database {self._path}"
        why, name = str(err), error_name(err)
        if isinstance(err, sqlite3.IntegrityError):
            return ForeignWriter("cannot commit to the target's database", why)
        if isinstance(err, UnicodeDecodeError):
            # The driver cannot even report an undecodable name in the database's schema.
            return TargetUnusable(attempted, "its schema has undecodable text", hint=_ANEW)
        if why.startswith("Could not decode to UTF-8"):
            # Not the text itself: a terminal might interpret it.
            return UnreadableText(attempted, why.partition(" with text")[0])
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            kept = denial_of(why, *(f"{self._path}{end}" for end in ("", "-wal", "-shm", "-journal")))
            if kept is not None:
                return NotPermitted(attempted, kept.why, hint=kept.hint)
        return sqlite_error(err, attempted, _HINTS, TargetUnusable)

    def _make_devpi_tables(self, connection: Connection) -> None:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master")
        names = {row[0] for row in rows}
        for name, statement in _DEVPI_SCHEMA.items():
            if name not in names:
                connection.exec_driver_sql(statement)

    def missing_objects(self) -> list[str]:
        """Return the names of devpi-server's tables and indexes that are missing or different."""
        with self._reading() as connection:

            def columns_of(name: str) -> list[str]:
                # As bytes: undecodable text is not the name of a column.
                query = "SELECT CAST(name AS BLOB) FROM pragma_table_info(?)"
                rows = connection.exec_driver_sql(query, (name,))
                return [bytes(row[0]).decode(errors="replace") for row in rows]

            missing = [name for name, columns in _DEVPI_COLUMNS.items() if columns_of(name) != columns]
            query = "SELECT 1 FROM sqlite_master WHERE name = 'kv_serial_idx' AND tbl_name = 'kv'"
            if connection.exec_driver_sql(query).first() is None:
                missing.append("kv_serial_idx")
            return missing + missing_of_ours(columns_of)

    def foreign_objects(self) -> list[tuple[str, str, str]]:
        """Return kind, name and SQL of triggers and views: all are foreign."""
        with self._reading() as connection:
            return _foreign_objects(connection)

    def damages(self) -> list[str]:
        """Return the errors in the file's structure, in SQLite's words; reads all of the file."""
        with self._reading() as connection:
            rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA main.integrity_check(100)")]
        return [] if rows == ["ok"] else rows

    def repair_structure(self) -> None:
        """Remove triggers and views, and rows that share a unique key; rebuild all indexes."""
        with self._writing() as connection:
            for kind, name, _ in _foreign_objects(connection):
                quoted = name.replace('"', '""')
                connection.exec_driver_sql(f'DROP {kind} main."{quoted}"')
        with self._writing() as connection:
            _remove_doubles(connection)
            connection.exec_driver_sql("REINDEX")

    def _write_rows(self, connection: Connection, rows: list[tuple[int, bytes]]) -> None:
        _insert(connection, "INSERT INTO changelog (serial, data)", rows)

    def _write_keys(self, connection: Connection, keys: Iterable[tuple[str, str, int]]) -> None:
        _insert(connection, "INSERT OR REPLACE INTO kv (key, keyname, serial)", list(keys))

    def _write_files(self, connection: Connection, rows: Iterable[FileRow]) -> None:
        columns = "(relpath, serial, digest, state, size, reason)"
        _insert(connection, f"INSERT OR REPLACE INTO replisync_files {columns}", list(rows))

    def _mark_present(self, connection: Connection, present: Mapping[str, int]) -> None:
        for rows in _pieces(list(present.items())):
            here = ", ".join(["(?, ?)"] * len(rows))
            connection.exec_driver_sql(_PRESENT.format(here=here), (*chain.from_iterable(rows), PRESENT))

    def clear(self) -> None:
        """Remove all data of a clone, and release its space."""
        super().clear()
        with self._translated(), closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM")

    def back_to_devpi(self) -> None:
        """Put the file into the form that devpi-server creates: everything in one file, the default journal.

        While readers hold it open the journal stays WAL, with which devpi-server works as well.
        """
        self._engine.dispose()
        connection = sqlite3.connect(self._path, timeout=1, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as err:
            if not error_name(err).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise self._error(err) from err
        finally:
            connection.close()


def _foreign_objects(connection: Connection) -> list[tuple[str, str, str]]:
    query = "SELECT type, name, sql FROM main.sqlite_master WHERE type IN ('trigger', 'view') ORDER BY name"
    return [(row[0], row[1], row[2]) for row in connection.exec_driver_sql(query)]


def _remove_doubles(connection: Connection) -> None:
    """Remove all rows but the newest of each unique key; its content is checked later.

    A damaged index lets them in, and no index can be rebuilt over them.
    """
    doubled = []
    indexes = 'SELECT name FROM pragma_index_list(?) WHERE "unique"'
    for table in (*_DEVPI_COLUMNS, *metadata.tables):
        for index in connection.exec_driver_sql(indexes, (table,)).scalars().all():
            columns = connection.exec_driver_sql("SELECT name FROM pragma_index_info(?)", (index,)).scalars()
            ranks = f"row_number() OVER (PARTITION BY {', '.join(columns)} ORDER BY rowid DESC) AS rank"
            query = (
                f"SELECT at FROM (SELECT rowid AS at, {ranks} FROM main.{table} NOT INDEXED) WHERE rank > 1"  # noqa: S608
            )
            doubled += [(table, at) for at in connection.exec_driver_sql(query).scalars()]
    if not doubled:
        return
    # Otherwise SQLite refuses to delete a row that an index lacks.
    connection.exec_driver_sql("PRAGMA writable_schema = 1")
    try:
        for table, at in doubled:
            connection.exec_driver_sql(f"DELETE FROM main.{table} WHERE rowid = ?", (at,))  # noqa: S608
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema = 0")


def _insert(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows, many with each call into SQLite.

    Each call releases the interpreter lock and must take it again; row by row, a commit would wait for that
    lock, held by a thread that decodes, more than for the disk.
    """
    for some in _pieces(rows):
        row = f"({', '.join('?' * len(some[0]))})"
        values = ", ".join([row] * len(some))
        connection.exec_driver_sql(f"{statement} VALUES {values}", tuple(chain.from_iterable(some)))


def _pieces(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    for start in range(0, len(rows), _ROWS_PER_CALL):
        yield rows[start : start + _ROWS_PER_CALL]
