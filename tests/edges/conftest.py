"""The databases that a store can have: whatever one promises, all of them promise."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pg8000.dbapi
import pytest
import trustme

from replisync.changelog.plan import Batch
from replisync.changelog.records import Commit
from replisync.devpi.entries import ChangelogEntry, KeyChange
from replisync.devpi.storage import Storage
from replisync.standby.database.engine import Guard
from replisync.standby.database.postgres import PostgresStore
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.database.store import Store
from tests.support import postgres as support
from tests.support.history import serialize
from tests.support.ready import ready_database

Changes = dict[str, tuple[str, int, Any]]


class Database(Protocol):
    """A database to be, the store on it, and a second connection that sees what is committed."""

    def open(self, *, guard: Guard | None = None) -> Store:
        """Return a store that writes."""
        ...

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a connection of somebody else sees."""
        ...

    def write(self, statement: str, *values: object) -> None:
        """Write as somebody else, committed at once."""
        ...


class SqliteDatabase:
    """The file of a serverdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, *, guard: Guard | None = None) -> SqliteStore:
        """Return a store that writes."""
        if not self.path.exists():
            self.path.write_bytes(ready_database())
        store = SqliteStore(self.path, write=True, guard=guard, busy_seconds=1)
        store.prepare()
        return store

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a connection of somebody else sees."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()

    def write(self, statement: str, *values: object) -> None:
        """Write as somebody else, committed at once."""
        with closing(sqlite3.connect(self.path, timeout=5)) as connection, connection:
            connection.execute(statement, values)


class PostgresDatabase:
    """An empty database of a PostgreSQL server."""

    def __init__(self, database: support.Database) -> None:
        self.storage = Storage.parse(database.spec)
        self._options = database.options
        self._database = database

    def administer(self, statement: str) -> None:
        """Run a statement as the superuser, who sees what the owner sees."""
        self._database.query(f"SET search_path TO {self._database.user}; {statement}")

    def open(self, *, guard: Guard | None = None) -> PostgresStore:
        """Return a store that writes."""
        store = PostgresStore(self.storage, write=True, guard=guard)
        store.prepare()
        return store

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a connection of somebody else sees."""
        with closing(pg8000.dbapi.connect(**self._options)) as connection:
            cursor = connection.cursor()
            cursor.execute(query.replace("?", "%s"), values)
            return [tuple(row) for row in cursor.fetchall()]

    def write(self, statement: str, *values: object) -> None:
        """Write as somebody else, committed at once."""
        with closing(pg8000.dbapi.connect(**self._options)) as connection:
            connection.cursor().execute(statement.replace("?", "%s"), values)
            connection.commit()


@pytest.fixture(scope="session")
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a single CA, whom nobody knows."""
    path = tmp_path_factory.mktemp("authorities") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def _few_authorities(few_authorities: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine trust few CAs: all of them are loaded for each connection to a PostgreSQL."""
    monkeypatch.setenv("SSL_CERT_FILE", str(few_authorities))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one, for tests that write and sync a lot."""
    memory = Path("/dev/shm")  # noqa: S108 - below it the folder has a name of its own
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="replisync-") as name:
        yield Path(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, folder: Path) -> Database:
    """A database that does not exist yet, or is empty."""
    if request.param == "sqlite":
        return SqliteDatabase(folder / ".sqlite")
    return PostgresDatabase(request.getfixturevalue("postgres").schema())


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store that is ready and empty."""
    with database.open() as store:
        yield store


def entry(serial: int, changes: Changes | None = None, size: int = 0) -> ChangelogEntry:
    """Return an entry with these changes, as it is stored."""
    changes = dict(changes or {})
    if size:
        changes[f"filler/{serial}"] = ("PLUGIN", -1, "x" * size)
    named = {path: KeyChange(*change) for path, change in changes.items()}
    return ChangelogEntry(serial, named, serialize((changes, [])))


def commit(*entries: ChangelogEntry, **outcome: Any) -> Commit:
    """Return the commit of a batch of entries."""
    batch = Batch(entries[0].serial, entries[0].serial)
    for one in entries:
        batch.add(one)
    return Commit(batch, **outcome)


def file(digest: str = "a" * 64) -> dict[str, Any]:
    """Return the value of a file that exists."""
    return {"last_modified": "Sun, 22 Nov 2026 11:39:23 GMT", "hash_spec": f"sha256={digest}"}
