"""The first copy over the changelog: exact, with the primary's own serials, resumable at any point.

Metadata first, which is fast; then the files that live keys demand, and only those; then what the primary
committed meanwhile; `.nodeinfo` last. Until it is there no devpi-server starts on the target.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from replisync import clock
from replisync.errors import FilesMissing, TargetUnusable, WrongHistory
from replisync.loop import Patience, catch_up
from replisync.origin import Hello
from replisync.pipeline import Pipeline
from replisync.primary import Primary
from replisync.serverdir import Serverdir, standby_nodeinfo
from replisync.standby import (
    Context,
    Settings,
    local_files,
    open_database,
    pipeline,
    recorded,
    require_replica,
    signer,
)
from replisync.storage import SQLITE
from replisync.store.base import Store
from replisync.store.records import FileCounts, Source

KIND = "changelog"


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone ended with."""

    serial: int
    files: FileCounts
    local: int
    faults: int


def clone(serverdir: Serverdir, primary_url: str, settings: Settings, context: Context) -> Cloned:
    """Copy a primary into a new serverdir, or go on with a copy that was interrupted.

    Raises TargetUnusable where the serverdir is a finished standby, or somebody else's, and whatever the
    primary or the disk may do; then the same call resumes.
    """
    known = _known_source(serverdir)
    local_files(serverdir, settings)  # what is wrong with them shows before anything is written
    primary = Primary(
        primary_url,
        signer(settings),
        uuid=known.uuid if known else uuid.uuid4().hex,
        expected=known.primary_uuid if known else "",
        connections=settings.threads,
        silence=settings.silence,
    )
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with primary:
        # Whoever it is that answers, and whatever is wrong with it, shows before anything is written.
        hello = patience.call(lambda: _first_contact(primary, context))
        primary.expect(hello.uuid)
        with _new_target(serverdir) as store:
            source = store.source() or Source(
                primary_url=primary.url,
                primary_uuid=hello.uuid,
                uuid=primary.uuid,
                storage=str(serverdir.storage()),
                seed_kind=KIND,
                seed_started=clock.now(),
            )
            if source.primary_uuid != hello.uuid:
                raise WrongHistory(
                    f"clone into {serverdir}", "another clone, of another server, was begun there meanwhile"
                )
            store.check_own()
            source = replace(source, primary_url=primary.url)
            store.put_source(source)
            work = pipeline(serverdir, store, primary, settings, context, replace=True)
            with recorded(store, "clone", work):
                _fill(store, source, work, patience, context)
                store.put_source(replace(_source(store), seed_finished=clock.now()))
            return _finish(serverdir, store, hello, work.tally.local)


def _known_source(serverdir: Serverdir) -> Source | None:
    """Return where an interrupted clone got its data; None where there was none.

    Raises TargetUnusable where the serverdir cannot be cloned into. Writes nothing.
    """
    attempted = f"clone into {serverdir}"
    foreign = serverdir.foreign_content()
    if not serverdir.is_ours():
        if foreign:
            raise TargetUnusable(attempted, f"it is not empty: there is {foreign[0]}")
        return None
    if serverdir.role() is not None:
        require_replica(serverdir, serverdir.role())
        raise TargetUnusable(
            attempted,
            "it is a finished standby",
            hint="`replisync catchup` and `replisync follow` bring it up to date",
        )
    if serverdir.remembered_storage() is None:
        return None
    with open_database(serverdir) as store:
        # Where the tables are missing it was interrupted before it began.
        return store.source() if store.version() is not None else None


def _first_contact(primary: Primary, context: Context) -> Hello:
    with context.stop.waiting():
        return primary.entry(0)[0]


@contextmanager
def _new_target(serverdir: Serverdir) -> Iterator[Store]:
    fresh = serverdir.remembered_storage() is None
    if fresh and serverdir.storage().name != SQLITE:
        # Before anything is written: a wrong password, a database that is in use.
        with open_database(serverdir) as store:
            store.check_unused()
    serverdir.prepare()
    with ExitStack() as stack:
        stack.enter_context(serverdir.lock())
        serverdir.remember_storage()

        def guard() -> None:
            if serverdir.role() is not None:
                raise TargetUnusable(f"clone into {serverdir}", "somebody made a server of it meanwhile")

        store = stack.enter_context(
            open_database(serverdir, write=True, create=True, alone=True, guard=guard)
        )
        store.prepare()
        yield store


def _fill(store: Store, source: Source, work: Pipeline, patience: Patience, context: Context) -> None:
    work.recover()
    hello = patience.call(work.check_identity)
    if source.seed_serial is None:
        context.log.info("metadata", from_serial=store.last_serial() + 1, to_serial=hello.serial)
        context.progress.stage("metadata", hello.serial - store.last_serial(), "serials")
        serial = catch_up(work, store.last_serial, patience, metadata_only=True)
        store.put_source(replace(source, seed_serial=serial))
    counts = store.file_counts()
    context.log.info("files", total=counts.total, missing=counts.missing)
    context.progress.stage("files", counts.missing, "files")

    def arrived() -> object:
        return store.file_counts(), work.tally.files

    # A file that cannot be had may be one that a later change replaces: first that, then it must be there.
    complete = patience.call(lambda: _as_far_as_possible(work), progress=arrived)
    hello = patience.call(work.check_identity)
    context.progress.stage("changes since", hello.serial - store.last_serial(), "serials")
    catch_up(work, store.last_serial, patience)
    if not complete:
        patience.call(work.fetch_wanted, progress=arrived)


def _as_far_as_possible(work: Pipeline) -> bool:
    """Fetch what can be had; tell whether that is all."""
    try:
        work.fetch_wanted()
    except FilesMissing:
        return False
    return True


def _finish(serverdir: Serverdir, store: Store, hello: Hello, local: int) -> Cloned:
    serial, source = store.last_serial(), _source(store)
    done = Cloned(serial, store.file_counts(), local, len(store.faults()))
    serverdir.write_serverversion()
    serverdir.write_event_serial(serial)
    serverdir.write_nodeinfo(
        standby_nodeinfo(source.uuid, source.primary_uuid, source.primary_url, before_6_13=hello.before_6_13)
    )
    return done


def _source(store: Store) -> Source:
    source = store.source()
    if source is None:
        raise TargetUnusable("clone", "somebody removed the record of where the data comes from")
    return source
