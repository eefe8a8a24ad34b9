"""A finished standby of a scripted primary, in each kind of database, to be damaged, verified and mended."""

import shutil
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from replisync.changelog.records import Source
from replisync.changelog.witness import witnesses
from replisync.devpi.nodeinfo import standby_nodeinfo
from replisync.primary.access import Access
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from replisync.replication.context import Context
from replisync.replication.loop import Patience
from replisync.session.session import Session
from replisync.session.settings import Settings
from replisync.standby.database.store import Store
from replisync.standby.serverdir import Serverdir
from replisync.system import clock
from replisync.verify.checks.modes import grant, wrong_modes
from replisync.verify.checks.passwords import PrimaryUsers
from replisync.verify.findings import Report
from replisync.verify.repair.repair import Repair
from replisync.verify.run import Level, compare_with, judged_source, look, readable, subject_of
from tests.edges.conftest import Database, PostgresDatabase, SqliteDatabase
from tests.edges.scenario import HISTORY, ChainedPrimary, Target
from tests.fakes import FailingFiles, FailingPostgresStore, NoProgress, RecordingLog, RecordingStop, Trap

SOURCE = Source("http://p/", "primary", "ours", "sqlite", "changelog", clock.now())


def context() -> Context:
    """Return a run that nobody watches, whose waits take no time."""
    return Context(RecordingStop(), RecordingLog(), NoProgress())


class Standby:
    """A standby that has everything of a scripted primary.

    database: where it has its data; one of PostgreSQL, or the file of the serverdir.
    """

    def __init__(self, root: Path, database: Database, server: ChainedPrimary) -> None:
        self.root = root
        self.database = database
        self.server = server

    @property
    def in_postgres(self) -> bool:
        """Whether its database is one of PostgreSQL."""
        return isinstance(self.database, PostgresDatabase)

    @property
    def serverdir(self) -> Serverdir:
        """Its folder."""
        if isinstance(self.database, PostgresDatabase):
            return Serverdir(self.root, self.database.storage)
        return Serverdir(self.root)

    def follow(self, *, trap: Trap | None = None, upto: int | None = None, entries: int = 1) -> None:
        """Have it catch up, with so many entries in a batch."""
        with closing(self.target(trap or Trap(), entries=entries)) as target:
            target.begin()
            target.catch_up(self.server.serial if upto is None else upto)

    def target(self, trap: Trap, *, entries: int = 1) -> Target:
        """Return what follows the primary."""
        database = self.database

        class InPostgres(Target):
            def make_store(self) -> Store:
                assert isinstance(database, PostgresDatabase)
                return FailingPostgresStore(database.storage, write=True, trap=self.trap)

        kind = InPostgres if self.in_postgres else Target
        return kind(self.root, self.server, trap, entries=entries)

    def make(self) -> None:
        """Make it, with all of the history."""
        for stage in HISTORY:
            for op in stage:
                op(self.server)
        serverdir = self.serverdir
        serverdir.prepare()
        serverdir.remember_storage("ours")
        with closing(self.target(Trap())) as target:
            target.begin()
            target.store.put_source(SOURCE)
            target.catch_up(self.server.serial)
            target.store.put_source(replace(SOURCE, seed_serial=0, seed_finished=clock.now()))
        serverdir.write_serverversion()
        serverdir.write_event_serial(self.server.serial)
        serverdir.write_nodeinfo(standby_nodeinfo("ours", "primary", "http://p/", before_6_13=False))

    def prove(self) -> None:
        """Let the witnesses of all entries be those of entries that were committed as they are now."""
        before = -1
        for [serial] in self.database.read("SELECT serial FROM replisync_timeline ORDER BY serial"):
            query = "SELECT data FROM changelog WHERE serial > ? AND serial <= ? ORDER BY serial"
            rows = self.database.read(query, before, serial)
            statement = "UPDATE replisync_timeline SET witnesses = ? WHERE serial = ?"
            self.database.write(statement, witnesses(bytes(data) for [data] in rows), serial)
            before = serial

    def look(self, level: Level = Level.FULL) -> Report:
        """Verify it, also against its scripted primary where the level says so."""
        serverdir = self.serverdir
        uuid = self.server.uuid
        with (
            readable(serverdir) as store,
            Primary(
                "http://p/", None, uuid="ours", expected=uuid, link=Link(transport=self.server.transport())
            ) as primary,
        ):
            patience = Patience(RecordingStop(), RecordingLog(), seconds=0.0)
            compare = partial(compare_with, primary, patience)
            return look(
                partial(subject_of, serverdir, store, judged_source(serverdir, store), context()),
                level,
                compare=compare if level == Level.PRIMARY else None,
                users=PrimaryUsers(primary, patience) if level == Level.PRIMARY else None,
            )

    def repair(
        self,
        level: Level = Level.FULL,
        *,
        asks: bool = True,
        trap: Trap | None = None,
        skip: frozenset[str] = frozenset(),
    ) -> Report:
        """Mend it, as far as its scripted primary lets us."""
        trap = trap or Trap()
        self.server.trap = trap
        with closing(self.target(trap)) as target:
            serverdir, store = self.serverdir, target.store
            granted = [one for one in list(wrong_modes(serverdir)) if grant(serverdir, one)]
            files = FailingFiles(target.make_files(), trap)
            session = Session(
                serverdir,
                store,
                judged_source(serverdir, store),
                Settings(Access(threads=1), patience=0.0, skip_indexes=skip),
                context(),
                given_files=files,  # type: ignore[arg-type]
            )
            report = Repair(session, target.primary, asks=asks).run(level)
            report.repairs += granted
            return report

    # Files, wherever they are.

    def read_file(self, relpath: str) -> bytes | None:
        """Return the content of a file."""
        if not self.in_postgres:
            path = self.root / "+files" / relpath
            return path.read_bytes() if path.is_file() else None
        rows = self.database.read("SELECT data FROM files WHERE path = ?", relpath)
        return bytes(rows[0][0]) if rows else None

    def write_file(self, relpath: str, content: bytes) -> None:
        """Put a file where it does not belong, or other content into one."""
        if not self.in_postgres:
            path = self.root / "+files" / relpath
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return
        self.remove_file(relpath)
        self.database.write("INSERT INTO files VALUES (?, ?, ?)", relpath, len(content), content)

    def remove_file(self, relpath: str) -> None:
        """Remove a file."""
        if self.in_postgres:
            self.database.write("DELETE FROM files WHERE path = ?", relpath)
        else:
            (self.root / "+files" / relpath).unlink(missing_ok=True)


def made(root: Path) -> Standby:
    """Return a standby in SQLite, which may be copied."""
    standby = Standby(root, SqliteDatabase(root / ".sqlite"), ChainedPrimary())
    standby.make()
    return standby


def copied(standby: Standby, root: Path) -> Standby:
    """Return a copy of a standby in SQLite, with a primary of its own."""
    shutil.copytree(standby.root, root)
    server = ChainedPrimary()
    for stage in HISTORY:
        for op in stage:
            op(server)
    return Standby(root, SqliteDatabase(root / ".sqlite"), server)
