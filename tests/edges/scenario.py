"""A history with everything that moves files, on a scripted primary, and the target that follows it."""

import hashlib
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pg8000.dbapi

from replisync.changelog.plan import BatchLimits
from replisync.changelog.ports import FileStore
from replisync.changelog.records import Source
from replisync.devpi.storage import Storage
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from replisync.replication.context import Context
from replisync.replication.fetch import Fetcher
from replisync.replication.pipeline import Pipeline, Rules
from replisync.standby.database.store import Store
from replisync.standby.serverdir import Serverdir
from tests.fakes import (
    FailingFiles,
    FailingPostgresStore,
    FailingStore,
    RecordingLog,
    RecordingProgress,
    RecordingStop,
    ScriptedPrimary,
    Trap,
)
from tests.support import postgres as support
from tests.support.ready import ready_database

Op = Callable[[ScriptedPrimary], object]

A, B = "u/dev/+f/aaa/a/a-1.0.zip", "u/dev/+f/bbb/b/b é-1.0.zip"
TOX = "u/dev/+f/bbb/b/b-1.0.zip.toxresult-1.json"
NOMD5, GONE = "u/pypi/+e/host_path/n-1.0.zip", "u/pypi/+f/ccc/c/gone-1.0.zip"


class ChainedPrimary(ScriptedPrimary):
    """A primary whose back serials are right, as those of a real one are.

    latest: the last serial of each key.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, int] = {}

    def commit(self, changes: dict[str, tuple[str, int, Any]], renames: tuple[str, ...] = ()) -> int:
        """Append an entry; return its serial."""
        chained = {
            relpath: (name, self.latest.get(relpath, -1), value)
            for relpath, (name, _, value) in changes.items()
        }
        serial = super().commit(chained, renames)
        self.latest.update(dict.fromkeys(chained, serial))
        return serial


def value(content: bytes, *, digest: bool = True) -> dict[str, Any]:
    """Return the value of a file with this content."""
    spec = f"sha256={hashlib.sha256(content).hexdigest()}" if digest else ""
    return {"last_modified": "Sun, 22 Nov 2026 11:39:23 GMT", "hash_spec": spec}


def users(*indexes: str) -> dict[str, tuple[str, int, Any]]:
    """Return the change of a user that has these indexes; those named pypi are mirrors."""
    types = {name: {"type": "mirror" if name == "pypi" else "stage"} for name in indexes}
    return {"u/.config": ("USER", -1, {"indexes": types})}


def put(**files: tuple[str, bytes, bool]) -> Op:
    """Commit files: path, content, and whether their digest is known."""

    def op(server: ScriptedPrimary) -> None:
        changes = {}
        for path, content, digest in files.values():
            server.files[path] = content
            kind = "STAGEFILE" if "/+f/" in path else "PYPIFILE_NOMD5"
            changes[path] = (kind, -1, value(content, digest=digest))
        server.commit(changes, renames=tuple(f"+files/{path}-tmp" for path in changes))

    return op


def drop(*paths: str) -> Op:
    """Commit the deletion of files."""

    def op(server: ScriptedPrimary) -> None:
        for path in paths:
            server.files[path] = 410 if "/+f/" in path else 404
        server.commit(dict.fromkeys(paths, ("STAGEFILE", 0, None)))

    return op


def put_gone(server: ScriptedPrimary) -> None:
    """Commit a mirror's file that its upstream has no more."""
    server.files[GONE] = 404
    server.commit({GONE: ("STAGEFILE", -1, value(b"nobody has it"))})


# What the primary commits while the target looks away. What comes later in a stage leaves the files of its
# other entries as they are, as far as the target is to get them.
HISTORY: tuple[tuple[Op, ...], ...] = (
    (
        lambda server: server.commit(users("dev", "pypi")),
        put(a=(A, b"a" * 3000, True)),
        put(b=(B, b"b" * 10, True), tox=(TOX, b"first", True)),
    ),
    (put(tox=(TOX, b"second" * 500, True)), put(n=(NOMD5, b"mirrored", False)), drop(A)),
    (put(a=(A, b"a" * 3000, True)), put_gone, lambda server: server.commit({})),
    (put(n=(NOMD5, b"mirrored again", False)), drop(TOX), lambda server: server.commit({**users("pypi")})),
)


class Target:
    """A target that follows a scripted primary, with traps in all of its parts."""

    def __init__(
        self,
        root: Path,
        server: ScriptedPrimary,
        trap: Trap,
        *,
        entries: int,
        cloning: bool = False,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        self.serverdir = Serverdir(root)
        self.serverdir.prepare()
        server.trap = trap
        self.server = server
        self.trap = trap
        self.store = self.make_store()
        stop = RecordingStop()
        self.progress = RecordingProgress()
        primary = Primary(
            "http://p/", None, uuid="ours", expected=server.uuid, link=Link(transport=server.transport())
        )
        files = FailingFiles(self.make_files(), trap)
        self.primary = primary
        self.pipeline = Pipeline(
            primary,
            self.store,
            Fetcher(primary, files, threads=1, stop=stop, place="all" if cloning else "free"),  # type: ignore[arg-type]
            Context(stop, RecordingLog(), self.progress),
            Rules(BatchLimits(entries=entries), skip),
        )

    def make_store(self) -> Store:
        """Return the store, with the trap in it."""
        path = self.serverdir.root / ".sqlite"
        if not path.exists():
            path.write_bytes(ready_database())
        return FailingStore(path, write=True, trap=self.trap)

    def make_files(self) -> FileStore:
        """Return where files go."""
        return self.store.files(self.serverdir, shared=False)

    def close(self) -> None:
        """Let go of everything, as a process does that ends."""
        self.store.close()
        with self.primary:
            pass

    def begin(self) -> None:
        """Do what each run begins with."""
        self.store.prepare()
        self.pipeline.recover()

    def catch_up(self, serial: int, *, metadata_only: bool = False) -> None:
        """Take steps up to a serial."""
        while self.store.last_serial() < serial:
            self.pipeline.step(poll=False, last=serial, metadata_only=metadata_only)

    def clone(self, serial: int) -> None:
        """Copy as `clone` does: metadata, then files, then what came since."""
        source = self.store.source() or Source("http://p/", "primary", "ours", "sqlite", "changelog", "now")
        if source.seed_serial is None:
            self.store.put_source(source)
            self.catch_up(serial, metadata_only=True)
            self.store.put_source(replace(source, seed_serial=serial))
        self.pipeline.wanted.fetch_all()
        self.catch_up(serial)


class PostgresParts:
    """Makes the parts of a target that has its data in PostgreSQL, files too.

    spec: the database.
    """

    spec: str
    serverdir: Serverdir
    store: Store
    trap: Trap

    def make_store(self) -> Store:
        """Return the store, with the trap in it."""
        return FailingPostgresStore(Storage.parse(self.spec), write=True, trap=self.trap)


# Which columns say what the target is, and not when or how often something was tried.
_QUERIES = {
    "changelog": "SELECT serial, data FROM changelog",
    "kv": "SELECT key, keyname, serial FROM kv",
    "files": "SELECT relpath, serial, digest, state, size, reason FROM replisync_files",
    "faults": "SELECT relpath, serial, kind, reason FROM replisync_faults",
    "pending": "SELECT relpath, serial, action FROM replisync_pending",
    "retained": "SELECT relpath FROM replisync_retained",
    "source": "SELECT primary_uuid, uuid, seed_serial FROM replisync_source",
    "last": "SELECT max(serial) FROM replisync_timeline",
}


def state(root: Path) -> dict[str, Any]:
    """Return all that makes a target what it is: tables and files."""
    found: dict[str, Any] = {"on disk": on_disk(root)}
    with closing(sqlite3.connect(f"file:{root / '.sqlite'}?mode=ro", uri=True)) as database:
        for name, query in _QUERIES.items():
            found[name] = sorted(database.execute(query).fetchall())
    return found


def state_in_postgres(root: Path, database: support.Database) -> dict[str, Any]:
    """Return the same of a target that has its data in PostgreSQL."""
    return {"on disk": on_disk(root), **rows_in_postgres(database, _QUERIES)}


def on_disk(root: Path) -> dict[str, bytes]:
    """Return all files of a target, with their content.

    Under which serial a file was retained depends on where a failure cut the batch, and is left out.
    """
    return {
        re.sub(r"retained/\d+-", "retained/", path.relative_to(root).as_posix()): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".sqlite") and path.name != "lock"
    }


def rows_in_postgres(database: support.Database, queries: dict[str, str]) -> dict[str, Any]:
    """Return what queries yield, in order, with the files of devpi and its sequence."""
    files = {"contents": "SELECT path, data FROM files"}
    sequence = {"sequence": "SELECT last_value, is_called FROM changelog_serial_seq"}
    found: dict[str, Any] = {}
    with closing(pg8000.dbapi.connect(**database.options)) as connection:
        cursor = connection.cursor()
        for name, query in {**queries, **files, **sequence}.items():
            cursor.execute(query)
            found[name] = sorted(map(tuple, cursor.fetchall()))
    return found
