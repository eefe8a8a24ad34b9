"""Bring a standby up to date: once, or continuously."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from replisync.devpi import plain_url
from replisync.errors import LocalFailure
from replisync.operations.adopt import adopt
from replisync.primary import normalized_url
from replisync.replication import Context, Patience, Pipeline, Retries, catch_up, expire_retained, follow
from replisync.session import Session, Settings, local_files
from replisync.standby import Serverdir, warn_of_readers
from replisync.system import clock

# The number of files that a follower retries at once while changes are pending.
_CHORE_FILES = 50


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The result of a catchup."""

    from_serial: int
    serial: int
    files: int
    bytes: int
    local: int
    faults: int


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a catchup.

    to_serial: the serial to stop at; None for the primary's current one.
    timeout: seconds after which the run stops; None for no limit.
    adopt_primary_uuid: accept another UUID of the primary, if its whole history is ours.
    """

    to_serial: int | None = None
    timeout: float | None = None
    adopt_primary_uuid: bool = False


@contextmanager
def _connected(
    session: Session, primary_url: str | None, patience: Patience, *, adopting: bool = False
) -> Iterator[tuple[Pipeline, Retries]]:
    """Connect a standby to its primary, after finishing interrupted work."""
    serverdir, settings = session.serverdir, session.settings
    warn_of_readers(serverdir, session.context.log)
    url = normalized_url(primary_url) if primary_url else session.source.primary_url
    if adopting:
        adopt(session, url, patience)
    source = session.source
    with session.primary(url) as primary:
        work = session.following(primary, local_files(serverdir, settings))
        work.recover()
        _expire(session)
        if url != source.primary_url:
            # Only after the server at the new URL has proved to be the same one.
            patience.call(work.check_identity)
            # The row comes last: once it is there, `.nodeinfo` is correct.
            info = serverdir.nodeinfo() or {}
            serverdir.write_nodeinfo({**info, "masterurl": plain_url(url)})
            session.store.put_source(replace(source, primary_url=url))
        yield work, session.retries(primary, work)


def _expire(session: Session) -> None:
    days, at_once = session.settings.retention_days, session.settings.expire_at_once
    try:
        expire_retained(session.store, session.files, days, clock.now(), at_once=at_once)
    except LocalFailure as err:
        # This can wait; applying changes cannot, and reports its own failures.
        session.context.log.warning("retained files are not removed", error=str(err))


def run_catchup(
    serverdir: Serverdir,
    settings: Settings,
    context: Context,
    *,
    primary_url: str | None = None,
    goal: Goal | None = None,
) -> CaughtUp:
    """Apply all changes up to the primary's current serial, or up to that of the goal.

    Raises ConditionFailed if its timeout passed or its serial cannot be reached, and the errors of the
    primary and the disk; the standby stays at its last complete serial.
    """
    goal = goal or Goal()
    if goal.timeout is not None:
        context.stop.limit(goal.timeout)
        access = settings.access
        settings = replace(settings, access=replace(access, silence=min(access.silence, goal.timeout)))
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with Session.open(serverdir, settings, context) as session:
        store = session.store
        first = store.last_serial()
        with (
            session.recorded("catchup") as record,
            _connected(session, primary_url, patience, adopting=goal.adopt_primary_uuid) as (work, _),
        ):
            patience.on_trouble = record.note_error
            catch_up(work, store.last_serial, patience, to_serial=goal.to_serial)
            patience.attempt(work.wanted.retry)
        tally = session.tally
        return CaughtUp(
            first, store.last_serial(), tally.files, tally.bytes, tally.local, store.fault_count()
        )


def run_follow(
    serverdir: Serverdir,
    settings: Settings,
    context: Context,
    *,
    primary_url: str | None = None,
    timeout: float | None = None,
) -> None:
    """Apply each change as it is committed, until asked to stop.

    timeout: seconds to retry transient errors without progress; None for ever.
    Raises Stopped when asked to stop, and errors that are not transient.
    """
    patience = Patience(context.stop, context.log, seconds=timeout, local=timeout is None)
    with (
        Session.open(serverdir, settings, context) as session,
        session.recorded("follow") as record,
        _connected(session, primary_url, patience) as (work, retries),
    ):
        patience.on_trouble = record.note_error
        store = session.store
        url = (store.source() or session.source).primary_url
        context.log.info("following", serial=store.last_serial())
        context.progress.following(url, store.last_serial())
        reported = store.last_serial()

        def report() -> None:
            nonlocal reported
            serial = store.last_serial()
            if serial != reported:
                context.log.info("applied", serial=serial, entries=serial - reported)
                reported = serial
            patience.attempt(retries.collect)
            record.note()
            context.progress.following(url, serial)

        def chores() -> None:
            retries.begin(_CHORE_FILES)
            _expire(session)

        follow(work, store.last_serial, patience, on_step=report, chores=chores)
