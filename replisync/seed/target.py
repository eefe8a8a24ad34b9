"""What every way of seeding has in common: the new target, its files, and the hand-over as a standby."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from replisync.changelog import EXPORT, FileCounts, Hello, Identity, Source
from replisync.devpi import SQLITE, standby_nodeinfo
from replisync.errors import (
    Advice,
    CorruptEntry,
    FilesMissing,
    Hint,
    PrimaryDamaged,
    TargetUnusable,
    WrongHistory,
)
from replisync.primary import Primary
from replisync.replication import Context, Patience, Pipeline, catch_up
from replisync.session import Settings
from replisync.standby import Serverdir, Store, open_database, require_replica
from replisync.system import local_errors, make_folder, write_file


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone ended with.

    role: of the server that it is now: replica, or standalone.
    local: files that were found on this machine.
    export_reason: why an export was made for it, or None.
    passwordless: how many users have no password, as in the dump; None without a dump.
    """

    role: str
    serial: int
    files: FileCounts
    local: int
    faults: int
    export_reason: str | None = None
    passwordless: int | None = None


def known_identity(serverdir: Serverdir) -> Identity | None:
    """Return whose an interrupted clone is, or None.

    Raises TargetUnusable if the serverdir cannot be cloned into. Writes nothing.
    """
    attempted = f"cannot clone into {serverdir}"
    foreign = serverdir.foreign_content()
    if not serverdir.is_ours():
        if foreign:
            raise TargetUnusable(attempted, f"it is not empty: there is {foreign[0]}")
        serverdir.check_path()
        return None
    if serverdir.role() is not None:
        require_replica(serverdir, serverdir.role())
        raise TargetUnusable(
            attempted,
            "it is a finished standby",
            hint=Hint("bring it up to date with {}, or rebuild it with --reseed", Advice("catchup")),
        )
    if serverdir.remembered_storage() is None:
        return None
    with open_database(serverdir) as store:
        # Where the tables are missing it was interrupted before it began.
        _check_ours(serverdir, store)
        return store.identity()


def check_begun(serverdir: Serverdir, known: Identity | Source | None, kind: str, *, followed: bool) -> None:
    """Make sure that a clone goes on as it was begun.

    known: what an interrupted one remembers, or None.
    kind: as in tables.source.
    followed: whether a primary is to be followed.
    Raises TargetUnusable.
    """
    if known is None:
        return
    attempted = f"cannot clone into {serverdir}"
    if EXPORT in (known.seed_kind, kind) and known.seed_kind != kind:
        raise TargetUnusable(
            attempted,
            f"another kind of clone was begun there ({known.seed_kind})",
            hint="go on with it in the way that it was begun, or choose another --serverdir",
        )
    if known.primary_url and not followed:
        raise TargetUnusable(
            attempted,
            "it was begun as a standby, with --primary-url, and would become a server of its own",
            hint="run the same command as before, with --primary-url, or choose another --serverdir",
        )
    if kind == EXPORT and followed and not known.primary_url:
        # What was imported for a server of its own has mirrors in it, and serials of its own.
        raise TargetUnusable(
            attempted,
            "it was begun as a server of its own, without --primary-url, and cannot become a standby",
            hint="run the same command as before, without --primary-url, or choose another --serverdir",
        )


def begun_export(serverdir: Serverdir) -> str | None:
    """Return why an interrupted clone was begun by way of an export; None if it was not.

    Raises what `known_identity` does. Writes nothing.
    """
    if known_identity(serverdir) is None:
        return None
    with open_database(serverdir) as store, suppress(TargetUnusable):
        # A database of an older replisync is brought up to date by those who write.
        store.check_version()
        source = store.source()
        if source is not None and source.seed_kind == EXPORT:
            return source.seed_reason or "it was begun so"
    return None


def _check_ours(serverdir: Serverdir, store: Store) -> None:
    """Make sure that a database is empty, or has the beginning of this very clone.

    Raises TargetUnusable.
    """
    found = store.identity()
    if found is None or found.uuid != serverdir.remembered_uuid():
        store.check_unused()


def connect(url: str, known: Identity | None, settings: Settings) -> Primary:
    """Return the primary behind a URL, as an interrupted clone knew it or as a new replica sees it."""
    return settings.access.primary(
        url, known.uuid if known else uuid.uuid4().hex, known.primary_uuid if known else ""
    )


def first_contact(primary: Primary, patience: Patience, context: Context, *, damaged: bool = False) -> Hello:
    """Find out who the primary is: whatever is wrong with it shows before anything is written.

    damaged: whether its changelog may have no beginning.
    """

    def ask() -> Hello:
        with context.stop.waiting():
            try:
                return primary.entry(0)[0]
            except CorruptEntry:
                if not damaged:
                    raise
                return primary.hello()

    hello = patience.call(ask)
    primary.expect(hello.uuid)
    return hello


@contextmanager
def new_target(serverdir: Serverdir) -> Iterator[Store]:
    """Hold the lock and the open database of a target that is not complete."""
    if serverdir.storage().name != SQLITE:
        # Before anything is written: a wrong password, a database that is in use.
        with open_database(serverdir) as store:
            _check_ours(serverdir, store)
    serverdir.prepare()
    with ExitStack() as stack:
        stack.enter_context(serverdir.lock())

        def guard() -> None:
            if serverdir.role() is not None:
                raise TargetUnusable(f"cannot clone into {serverdir}", "it was made a server meanwhile")

        store = stack.enter_context(
            open_database(serverdir, write=True, create=True, alone=True, guard=guard)
        )
        store.prepare()
        if serverdir.starting_over.exists():
            _start_over(serverdir, store)
        yield store


def found_unusable(store: Store) -> bool:
    """Return whether the last run ended because the history that it read has a hole, or cannot be decoded."""
    run = store.last_run()
    return run is not None and run.outcome == "failed" and run.exit_code == PrimaryDamaged.exit_code


def start_over(serverdir: Serverdir, store: Store) -> None:
    """Forget all that an incomplete clone brought, so that another kind of clone can begin.

    Raises LocalFailure; then, and after a crash, the next clone ends this first.
    """
    with local_errors(f"cannot write {serverdir.starting_over}"):
        write_file(serverdir.starting_over, b"")
    _start_over(serverdir, store)


def _start_over(serverdir: Serverdir, store: Store) -> None:
    _check_ours(serverdir, store)
    store.clear()
    with local_errors(f"cannot clear {serverdir}"):
        for folder in (serverdir.files, serverdir.tmp, serverdir.retained):
            if folder.exists():
                shutil.rmtree(folder)
        make_folder(serverdir.tmp.absolute())
        make_folder(serverdir.retained.absolute())
        serverdir.starting_over.unlink()


def begin(serverdir: Serverdir, store: Store, source: Source) -> Source:
    """Remember where the data comes from, unless an interrupted clone did; return what is remembered.

    Raises TargetUnusable if that one was of another kind, WrongHistory if it was of another server.
    """
    # Once more: somebody may have begun to use the database before we were alone in it.
    _check_ours(serverdir, store)
    known = store.source() or source
    check_begun(serverdir, known, source.seed_kind, followed=bool(source.primary_url))
    if known.primary_uuid != source.primary_uuid:
        raise WrongHistory(
            f"cannot clone into {serverdir}", "another clone, of another server, was begun there meanwhile"
        )
    store.own_serial()
    serverdir.remember_storage(known.uuid)
    known = replace(known, primary_url=source.primary_url, seed_kind=source.seed_kind)
    store.put_source(known)
    return known


def copy_files_and_changes(store: Store, work: Pipeline, patience: Patience, context: Context) -> None:
    """Bring the files of a target with complete metadata, then what the primary committed since."""
    counts = store.file_counts()
    context.progress.stage("files", counts.missing, "files", total=counts.total, missing=counts.missing)

    def arrived() -> object:
        return store.file_counts(), work.tally.local, work.progress()

    # A file that cannot be had may be one that a later change replaces: first that, then it must be there.
    complete = patience.call(lambda: _as_far_as_possible(work), progress=arrived)
    catch_up(work, store.last_serial, patience)
    if not complete:
        context.progress.stage("missing files", store.file_counts().missing, "files")
        patience.call(work.wanted.fetch_all, progress=arrived)


def _as_far_as_possible(work: Pipeline) -> bool:
    """Fetch what can be had; tell whether that is all."""
    try:
        work.wanted.fetch_all()
    except FilesMissing:
        return False
    return True


def current_source(store: Store) -> Source:
    """Return where the data comes from.

    Raises TargetUnusable if nobody knows any more.
    """
    source = store.source()
    if source is None:
        raise TargetUnusable("cannot clone", "the record of where the data comes from was removed meanwhile")
    return source


def hand_over(serverdir: Serverdir, store: Store, hello: Hello, local: int) -> Cloned:
    """Make a standby of a complete target."""
    serial, source = store.last_serial(), current_source(store)
    done = Cloned("replica", serial, store.file_counts(), local, store.fault_count())
    serverdir.write_serverversion()
    serverdir.write_event_serial(serial)
    serverdir.write_nodeinfo(
        standby_nodeinfo(source.uuid, source.primary_uuid, source.primary_url, before_6_13=hello.before_6_13)
    )
    serverdir.clear_seed()
    return done


def release(serverdir: Serverdir, store: Store, uuid: str, local: int, event_serial: int | None) -> Cloned:
    """Make a server of its own of a complete target, as devpi-import leaves one.

    event_serial: up to where devpi's events are handled; None if none are.
    """
    done = Cloned("standalone", store.last_serial(), store.file_counts(), local, store.fault_count())
    serverdir.write_serverversion()
    if event_serial is not None:
        serverdir.write_event_serial(event_serial)
    store.back_to_devpi()
    # The role is last: once it is there, no replisync writes here any more.
    serverdir.write_nodeinfo({"uuid": uuid, "role": "standalone"})
    serverdir.clear_seed()
    return done
