"""The store in PostgreSQL, as in devpi_postgresql's storage `pg8000`.

Two locks. Each writing transaction takes the lock of devpi's own writers for its duration: a devpi-server of
the hot standby needs it to store a file. For the whole run the writing connection holds another one, so that
only one replisync writes, on whichever machine.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, exc, text

from replisync.changelog.records import PRESENT, FileRow
from replisync.devpi.keys import MAX_PATH_BYTES
from replisync.devpi.storage import Storage
from replisync.errors import LocalFailure, TargetLocked, TargetUnusable
from replisync.standby.database import tables
from replisync.standby.database.engine import Guard
from replisync.standby.database.pgconnect import (
    DEVPI_LOCK,
    connect,
    copy_in,
    copy_rows,
    int_array,
    make_engine,
    sqlstate,
    text_array,
    translated,
)
from replisync.standby.database.pgfiles import DatabaseFiles
from replisync.standby.database.pgindexes import rebuild, wrong_indexes
from replisync.standby.database.pgserver import Sessions, check_own_session, check_server
from replisync.standby.database.pgsurvey import DatabaseSurvey
from replisync.standby.database.schema import VERSION_TABLE
from replisync.standby.database.store import Store
from replisync.standby.serverdir import Serverdir

# "replisyn" as a number.
_WRITER_LOCK = 0x7265706C6973796E

# SQLSTATE of a key that is longer than a third of an index's page.
_TOO_LONG = "54000"

# From devpi_postgresql/main.py, literally, so that schemas compare equal.
_DEVPI_SCHEMA = {
    "changelog": "CREATE TABLE changelog (serial INTEGER PRIMARY KEY, data BYTEA NOT NULL)",
    "kv": "CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY, keyname TEXT, serial INTEGER)",
    "files": "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, data BYTEA NOT NULL)",
    "kv_serial_idx": "CREATE INDEX kv_serial_idx ON kv (serial)",
    "changelog_serial_seq": "CREATE SEQUENCE changelog_serial_seq AS BIGINT MINVALUE 0 START 0",
}

_DEVPI_COLUMNS = {
    "changelog": ["serial", "data"],
    "kv": ["key", "keyname", "serial"],
    "files": ["path", "size", "data"],
}

_KEYS = """
    INSERT INTO kv (key, keyname, serial)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::integer[])
    ON CONFLICT (key) DO UPDATE SET keyname = EXCLUDED.keyname, serial = EXCLUDED.serial"""

_FILES = """
    INSERT INTO replisync_files (relpath, serial, digest, state, size, reason)
    SELECT * FROM unnest(%s::text[], %s::integer[], %s::text[], %s::text[], %s::bigint[], %s::text[])
    ON CONFLICT (relpath) DO UPDATE SET
        serial = EXCLUDED.serial, digest = EXCLUDED.digest, state = EXCLUDED.state, size = EXCLUDED.size,
        reason = EXCLUDED.reason"""

# In order.
_COLUMNS = """
    SELECT known.name, attname FROM unnest(CAST(:names AS text[])) AS known(name)
    JOIN pg_attribute ON attrelid = to_regclass(known.name)
    WHERE attnum > 0 AND NOT attisdropped ORDER BY attnum"""

# Foreign ones.
_TRIGGERS = """
    SELECT {what} FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
    WHERE NOT g.tgisinternal AND pg_table_is_visible(c.oid)
    AND (c.relname IN ('changelog', 'kv', 'files') OR starts_with(c.relname, 'replisync_'))
    ORDER BY tgname"""

_PRESENT = """
    UPDATE replisync_files SET state = %s, size = here.size, reason = NULL
    FROM unnest(%s::text[], %s::bigint[]) AS here(relpath, size)
    WHERE replisync_files.relpath = here.relpath"""


class PostgresStore(Store):
    """The store of a serverdir with PostgreSQL."""

    holds_files = True

    def __init__(
        self,
        storage: Storage,
        *,
        write: bool = False,
        alone: bool = False,
        guard: Guard | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        """Describe the store, without connecting.

        alone: be the only replisync that writes, from the first connection on.
        sessions: the record of the session that does; None to keep none.
        """
        self.storage = storage
        self._was_alone = False
        self._sessions = sessions or Sessions(None, None)
        self._engine_of_files: Engine | None = None
        # One connection: the one that writes holds the lock of the run, and loses it with its end.
        prepare = self._lock if alone else None
        super().__init__(make_engine(storage, connections=1, write=write, prepare=prepare), guard)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        if self._engine_of_files is not None:
            self._engine_of_files.dispose()

    def files(
        self, serverdir: Serverdir, threads: int = 1, *, shared: bool = True, prefix: str = ""
    ) -> DatabaseFiles:
        """Return the files of the target; see `Store.files`."""
        # One more for the caller's thread, and some for retries at the same time.
        engine = self._for_files(threads + 3)
        return DatabaseFiles(
            engine, self.storage, serverdir.tmp, serverdir.retained, shared=shared, prefix=prefix
        )

    def survey(self, serverdir: Serverdir, cores: int) -> DatabaseSurvey:  # noqa: ARG002
        """Return the survey of the target's files."""
        return DatabaseSurvey(self._for_files(cores + 1), self.storage)

    def _for_files(self, connections: int) -> Engine:
        if self._engine_of_files is None:
            self._engine_of_files = make_engine(
                self.storage, connections=connections, write=True, autocommit=True
            )
        return self._engine_of_files

    def _lock(self, connection: Any) -> None:
        check_own_session(connection, lambda: connect(self.storage, write=True), self.storage)

        def locked() -> bool:
            cursor = connection.cursor()
            cursor.execute(f"SELECT pg_try_advisory_lock({_WRITER_LOCK})")
            [found] = cursor.fetchone()
            connection.commit()
            return bool(found)

        free = locked()
        if not free:
            free = self.took_over = self._sessions.end_former(connection, locked)
        if free:
            self._was_alone = True
            self._sessions.note(connection)
            return
        attempted = f"cannot lock the database {self.storage}"
        if self._was_alone:
            raise LocalFailure(
                attempted,
                "the connection was lost, and its lock, or another process's, is still held",
                hint="run the command again: it resumes",
            )
        raise TargetLocked(attempted, "another replisync writes to it")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self.storage):
            yield

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql(DEVPI_LOCK)
            # Not before: the standby may be promoted while we wait.
            self._guard()
            yield connection

    def check_server(self) -> None:
        """Check that devpi-server can start on a standby in this database.

        Raises TargetUnusable.
        """
        with self._reading() as connection:
            check_server(lambda query: connection.exec_driver_sql(query).scalar(), self.storage)

    def check_unused(self) -> None:
        """Check that the database can be used, and is empty.

        Raises TargetUnusable.
        """
        self.check_server()
        with self._reading() as connection:
            for name, whose in ((VERSION_TABLE, "a standby"), ("changelog", "a devpi-server")):
                if not _exists(connection, name):
                    continue
                table = "replisync_source" if name == VERSION_TABLE else name
                if connection.exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").first():  # noqa: S608
                    raise TargetUnusable(
                        f"cannot clone into the database {self.storage}",
                        f"it is not empty: {whose} is in it",
                        hint="create an empty database for this standby",
                    )

    def prepare(self) -> None:
        """Create devpi's tables, upgrade ours, and correct devpi's sequence."""
        super().prepare()
        with self._writing() as connection:
            self._finish_rows(connection, self._last_serial(connection))

    def clear(self) -> None:
        """Remove all data of a clone, including its files."""
        # Files first: a remaining ledger requests them again, and after an interruption we return here.
        with self._writing() as connection:
            connection.exec_driver_sql("TRUNCATE files")
        super().clear()

    def _make_devpi_tables(self, connection: Connection) -> None:
        for name, statement in _DEVPI_SCHEMA.items():
            if not _exists(connection, name):
                connection.exec_driver_sql(statement)

    def missing_objects(self) -> list[str]:
        """Return the names of devpi-server's tables and indexes that are missing or different."""
        with self._reading() as connection:
            names = [*_DEVPI_COLUMNS, *tables.metadata.tables]
            rows = connection.execute(text(_COLUMNS), {"names": names})
            found: dict[str, list[str]] = defaultdict(list)
            for name, column in rows:
                found[name].append(column)
            missing = [name for name in _DEVPI_SCHEMA if not _exists(connection, name)]
            missing += [
                name
                for name, columns in _DEVPI_COLUMNS.items()
                if name not in missing and found[name] != columns
            ]
            return missing + tables.missing_of_ours(lambda name: found[name])

    def foreign_objects(self) -> list[tuple[str, str, str]]:
        """Return kind, name and SQL of triggers on tables of ours and of devpi-server's: all are foreign."""
        with self._reading() as connection:
            return _foreign_objects(connection)

    def damages(self) -> list[str]:
        """Return the indexes that do not match their tables; reads all of both."""
        with self._reading() as connection:
            # One snapshot for the whole comparison.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return [wrong.why for wrong in wrong_indexes(connection)]

    def repair_structure(self) -> None:
        """Remove triggers on tables of ours and of devpi-server's; rebuild indexes that do not match."""
        with self._writing() as connection:
            rows = connection.exec_driver_sql(_TRIGGERS.format(what="tgname, c.relname")).all()
            for name, table in rows:
                quoted = name.replace('"', '""')
                connection.exec_driver_sql(f'DROP TRIGGER "{quoted}" ON {table}')
        with self._writing() as connection:
            rebuild(connection)

    def next_serial(self) -> tuple[int, int] | None:
        """Return the serial that the sequence would give next, and the correct one.

        None if the sequence is missing.
        """
        with self._reading() as connection:
            if not _exists(connection, "changelog_serial_seq"):
                return None
            # A writer sets it within its transaction: seen from outside it is ahead until that ends.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(1)")
            query = "SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM changelog_serial_seq"
            found = connection.exec_driver_sql(query).scalar_one()
            return int(found), self._last_serial(connection) + 1

    def _write_rows(self, connection: Connection, rows: list[tuple[int, bytes]]) -> None:
        pieces = copy_rows((struct.pack("!i", serial), data) for serial, data in rows)
        copy_in(connection, "COPY changelog (serial, data) FROM STDIN WITH (FORMAT binary)", pieces)

    def _finish_rows(self, connection: Connection, last: int) -> None:
        # No rollback reverts this, so it comes last. If the commit fails nevertheless, the next one, or
        # `prepare`, corrects it.
        known = text("SELECT setval('changelog_serial_seq', :serial, :used)")
        connection.execute(known, {"serial": max(last, 0), "used": last >= 0})

    def holds_key(self, key: str) -> bool:
        """Return whether the database certainly can hold a row of this key.

        Its texts cannot contain a NUL, and the limit of kv's index depends on how well a key compresses.
        """
        return "\0" not in key and len(key.encode()) <= MAX_PATH_BYTES

    def _write_keys(self, connection: Connection, keys: Iterable[tuple[str, str, int]]) -> None:
        """Write rows of keys, except those that PostgreSQL cannot hold; their entries have all of them."""
        sure: list[tuple[str, str, int]] = []
        for row in keys:
            if self.holds_key(row[0]):
                sure.append(row)
            elif "\0" not in row[0]:
                _upsert_where_it_fits(connection, row)
        if sure:
            _upsert_keys(connection, sure)

    def _write_files(self, connection: Connection, rows: Iterable[FileRow]) -> None:
        found = list(rows)
        if found:
            paths, serials, digests, states, sizes, reasons = zip(*found, strict=True)
            values = (
                text_array(paths),
                int_array(serials),
                text_array(digests),
                text_array(states),
                int_array(sizes),
                text_array(reasons),
            )
            connection.exec_driver_sql(_FILES, values)

    def _mark_present(self, connection: Connection, present: Mapping[str, int]) -> None:
        if present:
            sizes = int_array(present.values())
            connection.exec_driver_sql(_PRESENT, (PRESENT, text_array(present), sizes))

    def back_to_devpi(self) -> None:
        """Give the database to devpi-server: its next serial is the one after ours."""
        with self._writing() as connection:
            self._finish_rows(connection, self._last_serial(connection))


def _upsert_keys(connection: Connection, rows: list[tuple[str, str, int]]) -> None:
    names, kinds, serials = zip(*rows, strict=True)
    connection.exec_driver_sql(_KEYS, (text_array(names), text_array(kinds), int_array(serials)))


def _upsert_where_it_fits(connection: Connection, row: tuple[str, str, int]) -> None:
    """Write a row of a key, unless the key is too long for the index even when compressed."""
    try:
        with connection.begin_nested():
            _upsert_keys(connection, [row])
    except exc.DBAPIError as err:
        if sqlstate(err.orig) != _TOO_LONG:
            raise


def _foreign_objects(connection: Connection) -> list[tuple[str, str, str]]:
    rows = connection.exec_driver_sql(_TRIGGERS.format(what="tgname, pg_get_triggerdef(g.oid)"))
    return [("trigger", row[0], row[1]) for row in rows]


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is not None
