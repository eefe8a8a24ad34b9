"""Open a standby: its database, its files, and the conditions for writing either."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from replisync.changelog.ports import Log
from replisync.changelog.records import Source
from replisync.devpi.storage import POSTGRES
from replisync.errors import Advice, Hint, TargetUnusable
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.database.store import Store
from replisync.standby.serverdir import SQLITE_FILE, Serverdir
from replisync.system.advice import chmod
from replisync.system.durable import local_errors
from replisync.system.owners import heir_of, new_file


def open_database(
    serverdir: Serverdir,
    *,
    write: bool = False,
    create: bool = False,
    alone: bool = False,
    guard: Callable[[], None] | None = None,
) -> Store:
    """Open the database of a serverdir.

    create: whether to create it if it is missing; a PostgreSQL database always exists.
    alone: be the only replisync that writes; with SQLite the lock of the serverdir ensures that.
    Raises TargetUnusable if it is missing.
    """
    storage = serverdir.storage()
    if storage.name == POSTGRES:
        # On demand: importing the driver would slow the start of every other command.
        from replisync.standby.database.pgserver import Sessions
        from replisync.standby.database.postgres import PostgresStore

        sessions = Sessions(serverdir.own / "session", serverdir.own / "lock") if alone else None
        return PostgresStore(storage, write=write, alone=alone, guard=guard, sessions=sessions)
    if not create and not serverdir.has_database():
        raise TargetUnusable(f"cannot open {serverdir}", "its database is missing")
    path = serverdir.root / SQLITE_FILE
    heir = heir_of(path) if create else None
    if heir is not None:
        # SQLite gives its other files the same owner.
        with local_errors(f"cannot create {path}"), suppress(FileExistsError):
            os.close(new_file(path, heir, 0o644))
    # SQLite creates its log even to read; if we cannot write the folder, nothing changes while we read.
    at_rest = not (write or create or os.access(serverdir.root, os.W_OK) or os.path.lexists(f"{path}-wal"))
    return SqliteStore(path, write=write, create=create, immutable=at_rest, guard=guard)


def require_ours(serverdir: Serverdir) -> None:
    """Check that replisync created, or began to create, a serverdir.

    Raises TargetUnusable.
    """
    if not serverdir.is_ours():
        raise TargetUnusable(
            f"cannot open {serverdir}",
            "not a replisync standby",
            hint="create one with `clone`",
        )


def require_standby(serverdir: Serverdir) -> None:
    """Check that a serverdir is a standby of ours, complete and not promoted.

    Raises TargetUnusable.
    """
    require_ours(serverdir)
    role = serverdir.role()
    if role is None:
        raise TargetUnusable(
            f"cannot open {serverdir}",
            "its clone is not complete",
            hint="run the same `clone` again: it resumes",
        )
    require_replica(serverdir, role)


def require_replica(serverdir: Serverdir, role: str | None) -> None:
    """Check that a serverdir has not been promoted.

    Raises TargetUnusable.
    """
    if role != "replica":
        raise TargetUnusable(
            f"cannot open {serverdir}",
            f"it was promoted, or copied, to a standalone server: its role is {role}",
            hint="replisync does not write to it any more; clone into another --serverdir: "
            "--replica-file-search-path with this folder, and --hard-links, reuse its files",
        )


@contextmanager
def existing_standby(serverdir: Serverdir, *, promoting: bool = False) -> Iterator[tuple[Store, Source]]:
    """Hold the lock and the open database of a complete standby.

    promoting: whether it may be one whose promotion was interrupted.
    Raises TargetUnusable or LocalFailure; nothing is changed then.
    """
    require_standby(serverdir)
    with ExitStack() as stack:
        stack.enter_context(serverdir.lock())
        require_standby(serverdir)
        # A copy of a serverdir may lack folders that were empty.
        serverdir.make_own_folders()
        serverdir.clear_seed()

        def guard() -> None:
            require_replica(serverdir, serverdir.role())

        store = stack.enter_context(open_database(serverdir, write=True, alone=True, guard=guard))
        require_same(serverdir, store)
        store.prepare()
        store.own_serial()
        source = _complete_source(serverdir, store)
        if source.promoted is not None and not promoting:
            # A copy of the serverdir may share the database, with its role unchanged.
            raise TargetUnusable(
                f"cannot open {serverdir}",
                f"its database was promoted at {source.promoted}",
                hint=Hint(
                    "a promoted server is never written again; if its promotion was interrupted, run {} "
                    "again",
                    Advice("promote"),
                ),
            )
        yield store, source


@contextmanager
def readable_standby(serverdir: Serverdir) -> Iterator[tuple[Store, Source]]:
    """Open a complete standby for reading; another replisync may write to it meanwhile.

    Raises TargetUnusable or LocalFailure.
    """
    require_standby(serverdir)
    with open_database(serverdir) as store:
        require_same(serverdir, store)
        store.check_version()
        yield store, _complete_source(serverdir, store)


def _complete_source(serverdir: Serverdir, store: Store) -> Source:
    source = store.source()
    if source is None or source.seed_finished is None:
        raise TargetUnusable(f"cannot open {serverdir}", "its seeding is not complete")
    return source


def require_same(serverdir: Serverdir, store: Store) -> None:
    """Check that a database belongs to this serverdir, not to another standby.

    Raises TargetUnusable.
    """
    found = store.identity()
    if found is None or found.uuid != (serverdir.nodeinfo() or {}).get("uuid"):
        raise TargetUnusable(
            f"cannot open {serverdir}",
            "its database is not the one that it was created with",
            hint="give the right one with --storage",
        )


def warn_of_readers(serverdir: Serverdir, log: Log) -> None:
    """Warn if other users can read the serverdir."""
    if not serverdir.is_open():
        return
    command = chmod("o-rwx", serverdir.root, owner=serverdir.root.stat().st_uid)
    log.warning(
        "others can read the serverdir",
        serverdir=str(serverdir),
        why="it contains password hashes and private files",
        hint=f"run {command}" if command else "create it in a folder that only its owner can enter",
    )
