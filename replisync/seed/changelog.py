"""The first copy over the changelog: exact, with the primary's own serials, resumable at any point.

Metadata first, which is fast; then the files that live keys demand, and only those; then what the primary
committed meanwhile; `.nodeinfo` last. Until it is there no devpi-server starts on the target.
"""

from dataclasses import replace

from replisync.changelog import Source
from replisync.replication import Context, Patience, Pipeline, catch_up
from replisync.seed.target import (
    Cloned,
    begin,
    check_begun,
    connect,
    copy_files_and_changes,
    current_source,
    first_contact,
    hand_over,
    known_identity,
    new_target,
)
from replisync.session import Session, Settings, local_files
from replisync.standby import Serverdir, Store
from replisync.system import clock

KIND = "changelog"


def clone(serverdir: Serverdir, primary_url: str, settings: Settings, context: Context) -> Cloned:
    """Copy a primary into a new serverdir, or go on with a copy that was interrupted.

    Raises TargetUnusable if the serverdir is a finished standby, or somebody else's, and whatever the
    primary or the disk may do; then the same call resumes.
    """
    known = known_identity(serverdir)
    check_begun(serverdir, known, KIND, followed=True)
    local = local_files(serverdir, settings)
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with connect(primary_url, known, settings) as primary:
        hello = first_contact(primary, patience, context)
        with new_target(serverdir) as store:
            source = Source(
                primary_url=primary.url,
                primary_uuid=hello.uuid,
                uuid=primary.uuid,
                storage=str(serverdir.storage()),
                seed_kind=KIND,
                seed_started=clock.now(),
            )
            source = begin(serverdir, store, source)
            session = Session(serverdir, store, source, settings, context, seeding=True)
            work = session.following(primary, local)
            with session.recorded("clone"):
                work.recover()
                _copy_metadata(store, source, work, patience, context)
                copy_files_and_changes(store, work, patience, context)
                store.put_source(replace(current_source(store), seed_finished=clock.now()))
            return hand_over(serverdir, store, hello, session.tally.local)


def _copy_metadata(
    store: Store, source: Source, work: Pipeline, patience: Patience, context: Context
) -> None:
    hello = patience.call(work.check_identity)
    if source.seed_serial is None:
        first, last = store.last_serial() + 1, hello.serial
        context.progress.stage("metadata", last + 1 - first, "serials", from_serial=first, to_serial=last)
        serial = catch_up(work, store.last_serial, patience, metadata_only=True)
        store.put_source(replace(source, seed_serial=serial))
