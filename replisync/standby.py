"""One standby, put together: folder, lock, database, primary and pipeline.

Every command that writes opens the target through here, so that the same checks stand before each write.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from replisync import clock
from replisync.advice import chmod
from replisync.auth import KeyCost, TokenSigner
from replisync.durable import local_errors
from replisync.errors import ReplisyncError, Stopped, TargetUnusable, UsageError, WrongHistory
from replisync.fetch import Fetcher
from replisync.filestore.disk import DiskFiles
from replisync.owners import heir_of, new_file
from replisync.pipeline import History, Pipeline, Rewrite
from replisync.plan import BatchLimits
from replisync.ports import FileSource, FileStore, Log, Progress
from replisync.primary import Primary
from replisync.secretfiles import replication_key
from replisync.seed.local import LocalFiles
from replisync.serverdir import SQLITE_FILE, Serverdir
from replisync.stop import Stop
from replisync.storage import POSTGRES
from replisync.store.base import Store
from replisync.store.records import Divergence, Source
from replisync.store.sqlite import SqliteStore
from replisync.tls import Tls, tls_context
from replisync.wanted import Tally
from replisync.wire import Limits

# For so long a primary is waited for that is only asked where it is: monitoring, and a failover, cannot wait.
ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set for any command that reads from a primary.

    threads: downloads at a time.
    skip_indexes: indexes (`user/index`), or types of them, or "all", whose files are left where they are.
    retention_days: how long files that deltas drop are kept; 0 keeps none.
    patience: seconds for which failures that may pass are borne; None for ever.
    silence: seconds without a byte after which the primary is given up.
    entry_bytes: the longest entry of the primary's changelog that is taken.
    search: folders in which files are looked for before they are asked for; see seed.local.
    hard_links: whether files that are found there are linked rather than copied.
    linked: more of the like, `+files` of ours, in which is looked first and from which files are linked.
    """

    secretfile: Path | None = None
    keyfile: Path | None = None
    cost: KeyCost = field(default_factory=KeyCost)
    threads: int = 4
    skip_indexes: frozenset[str] = frozenset()
    retention_days: float = 30.0
    patience: float | None = 60.0
    silence: float = 37.5
    limits: BatchLimits = field(default_factory=BatchLimits)
    tls: Tls = field(default_factory=Tls)
    entry_bytes: int = Limits().entry_bytes
    search: tuple[Path, ...] = ()
    hard_links: bool = False
    linked: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Who watches a run: where it logs, shows its progress, and is told to stop."""

    stop: Stop
    log: Log
    progress: Progress


def open_database(
    serverdir: Serverdir,
    *,
    write: bool = False,
    create: bool = False,
    alone: bool = False,
    guard: Callable[[], None] | None = None,
) -> Store:
    """Open the database of a serverdir.

    create: whether to make it where it is not there; a database of PostgreSQL is there in any case.
    alone: be the only replisync that writes, which with SQLite the lock of the serverdir sees to.
    Raises TargetUnusable where it is missing.
    """
    storage = serverdir.storage()
    if storage.name == POSTGRES:
        # On demand, here and below: the driver costs every other command a good part of its start.
        from replisync.store.postgres import PostgresStore

        return PostgresStore(storage, write=write, alone=alone, guard=guard)
    if not create and not serverdir.has_database():
        raise TargetUnusable(f"opening of {serverdir}", "its database is missing")
    path = serverdir.root / SQLITE_FILE
    heir = heir_of(path) if create else None
    if heir is not None:
        # The files that SQLite makes beside it, it gives to the same owner.
        with local_errors(f"making of {path}"), suppress(FileExistsError):
            os.close(new_file(path, heir, 0o644))
    # SQLite makes its log to read, too; where nobody can write, nothing changes while we read without.
    at_rest = not (write or create or os.access(serverdir.root, os.W_OK) or os.path.lexists(f"{path}-wal"))
    return SqliteStore(path, write=write, create=create, immutable=at_rest, guard=guard)


def warn_of_readers(serverdir: Serverdir, log: Log) -> None:
    """Warn where other users can read what is in a serverdir."""
    if not serverdir.is_open():
        return
    command = chmod("o-rwx", serverdir.root, owner=serverdir.root.stat().st_uid)
    log.warning(
        "others can read the serverdir",
        serverdir=str(serverdir),
        why="password hashes and private files are in it",
        hint=f"run {command}" if command else "make it in a folder that its owner alone can enter",
    )


def require_ours(serverdir: Serverdir) -> None:
    """Make sure that replisync made, or began to make, a serverdir.

    Raises TargetUnusable.
    """
    if not serverdir.is_ours():
        raise TargetUnusable(
            f"opening of {serverdir}",
            "it is no standby of replisync",
            hint="make one with `replisync clone`",
        )


def require_standby(serverdir: Serverdir) -> None:
    """Make sure that a serverdir is a standby of ours, complete and not promoted.

    Raises TargetUnusable.
    """
    require_ours(serverdir)
    role = serverdir.role()
    if role is None:
        raise TargetUnusable(
            f"opening of {serverdir}",
            "its clone is not complete",
            hint="run the same `replisync clone` again: it resumes",
        )
    require_replica(serverdir, role)


def require_replica(serverdir: Serverdir, role: str | None) -> None:
    """Make sure that a serverdir has not been promoted.

    Raises TargetUnusable.
    """
    if role != "replica":
        raise TargetUnusable(
            f"opening of {serverdir}",
            f"it was promoted, or copied, to be a server of its own: its role is {role}",
            hint="such a server is never written again; clone into another --serverdir",
        )


@contextmanager
def existing_standby(serverdir: Serverdir, *, promoting: bool = False) -> Iterator[tuple[Store, Source]]:
    """Hold the lock and the open database of a complete standby.

    promoting: whether it may be one whose promotion was interrupted.
    Raises TargetUnusable or LocalFailure; then nothing was changed.
    """
    require_standby(serverdir)
    with ExitStack() as stack:
        stack.enter_context(serverdir.lock())
        require_standby(serverdir)
        # A copy of a serverdir may have been made without folders that were empty.
        serverdir.make_own_folders()
        serverdir.clear_seed()

        def guard() -> None:
            require_replica(serverdir, serverdir.role())

        store = stack.enter_context(open_database(serverdir, write=True, alone=True, guard=guard))
        require_same(serverdir, store)
        store.prepare()
        store.check_own()
        source = store.source()
        if source is None or source.seed_finished is None:
            raise TargetUnusable(f"opening of {serverdir}", "its seeding is not complete")
        if source.promoted is not None and not promoting:
            # The database may be shared by a copy of the serverdir, whose role nobody changed.
            raise TargetUnusable(
                f"opening of {serverdir}",
                f"its database was promoted at {source.promoted}",
                hint="a promoted server is never written again; where the promotion was interrupted, "
                "run `replisync promote` again",
            )
        yield store, source


def require_same(serverdir: Serverdir, store: Store) -> None:
    """Make sure that a database is the one of this serverdir, and not another standby's.

    Raises TargetUnusable.
    """
    found = store.identity()
    if found is None or found.uuid != (serverdir.nodeinfo() or {}).get("uuid"):
        raise TargetUnusable(
            f"opening of {serverdir}",
            "its database is not the one that it was made with",
            hint="give the right one with --storage",
        )


def connection(settings: Settings, url: str, uuid: str, expected: str, *, secret: bool = True) -> Primary:
    """Return the primary at a URL, with which nothing is connected yet.

    uuid: the one that we show.
    expected: the one that the primary must have; "" for any.
    secret: whether its changelog is to be read.
    Raises UsageError where the secret, or a file for TLS, cannot be used.
    """
    return Primary(
        url,
        signer(settings) if secret else None,
        uuid=uuid,
        expected=expected,
        limits=Limits(settings.entry_bytes),
        connections=settings.threads,
        silence=settings.silence,
        context=tls_context(settings.tls),
    )


def signer(settings: Settings) -> TokenSigner:
    """Return what signs our tokens.

    Raises UsageError where no secret can be had.
    """
    key = replication_key(settings.secretfile, settings.keyfile, settings.cost)
    return TokenSigner(key, time.time, time.monotonic)


def target_files(serverdir: Serverdir, store: Store, threads: int = 1, *, shared: bool = True) -> FileStore:
    """Return the files of a standby whose database is `store`.

    threads: how many may use them at a time.
    shared: whether a devpi-server may be storing files too.
    """
    if serverdir.storage().name == POSTGRES:
        from replisync.filestore.database import DatabaseFiles
        from replisync.store.postgres import PostgresStore

        assert isinstance(store, PostgresStore)  # noqa: S101 - open_database() made it so
        engine = store.engine_of_files(threads + 1)
        return DatabaseFiles(engine, store.storage, serverdir.tmp, serverdir.retained, shared=shared)
    return DiskFiles(serverdir.files, serverdir.tmp, serverdir.retained)


def local_files(serverdir: Serverdir, settings: Settings) -> LocalFiles | None:
    """Return where files may lie on this machine; None where the operator names no folder.

    Raises UsageError where a folder is none to look in, or files are to be linked into a database.
    """
    if settings.hard_links and serverdir.storage().name == POSTGRES:
        raise UsageError("use of --hard-links", "with pg8000 the files are rows of the database")
    if not (settings.search or settings.linked):
        return None
    return LocalFiles(settings.search, link=settings.hard_links, linked=settings.linked)


def pipeline(
    serverdir: Serverdir,
    store: Store,
    history: History,
    settings: Settings,
    context: Context,
    *,
    files: FileSource,
    local: LocalFiles | None,
    replace: bool = False,
    tally: Tally | None = None,
    rewrite: Rewrite | None = None,
) -> Pipeline:
    """Put the loop together.

    files: where files come from that `local` does not have.
    replace: see fetch.Fetcher.
    tally, rewrite: see pipeline.Pipeline.
    """
    target = target_files(serverdir, store, settings.threads, shared=not replace)
    fetcher = Fetcher(
        files, target, threads=settings.threads, stop=context.stop, replace=replace, local=local
    )
    return Pipeline(
        history,
        store,
        target,
        fetcher,
        stop=context.stop,
        log=context.log,
        progress=context.progress,
        limits=settings.limits,
        skip_indexes=settings.skip_indexes,
        retain=settings.retention_days > 0,
        tally=tally,
        rewrite=rewrite,
    )


class Tallied(Protocol):
    """Who counts what it does."""

    @property
    def tally(self) -> Tally: ...


@contextmanager
def recorded(store: Store, command: str, work: Tallied) -> Iterator[None]:
    """Remember in the store that a command ran, and how it ended."""
    number = store.begin_run(command, clock.now())
    started = time.monotonic()

    def end(outcome: str, exit_code: int, error: str | None) -> None:
        store.end_run(
            number,
            finished=clock.now(),
            seconds=round(time.monotonic() - started, 3),
            files=work.tally.files,
            bytes=work.tally.bytes,
            local=work.tally.local,
            outcome=outcome,
            exit_code=exit_code,
            error=error,
        )

    try:
        yield
    except Stopped as err:
        # The record must not hide what is on its way, here and below.
        with suppress(ReplisyncError):
            end("stopped", err.exit_code, None)
        raise
    except BaseException as err:
        with suppress(ReplisyncError):
            if isinstance(err, WrongHistory):
                _record_divergence(store, err)
            end(
                "diverged" if isinstance(err, WrongHistory) else "failed",
                getattr(err, "exit_code", 1),
                str(err) or type(err).__name__,
            )
        raise
    end("ok", 0, None)


def _record_divergence(store: Store, err: WrongHistory) -> None:
    fork = err.details.get("fork_serial")
    known = fork if isinstance(fork, int) else None
    store.put_divergence(Divergence(clock.now(), store.last_serial(), known, err.why))
