"""Bringing a standby up to date: once, or for as long as we are let."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from replisync.devpi.nodeinfo import plain_url
from replisync.errors import LocalFailure
from replisync.primary.connection import normalized_url
from replisync.replication.context import Context
from replisync.replication.loop import Patience, catch_up, follow
from replisync.replication.pipeline import Pipeline
from replisync.replication.settle import expire_retained
from replisync.session.session import Session, local_files
from replisync.session.settings import Settings
from replisync.standby.opening import warn_of_readers
from replisync.standby.serverdir import Serverdir
from replisync.system import clock

# Files that a follower asks for again in one go, while changes wait.
_CHORE_FILES = 50


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What a catchup ended with."""

    from_serial: int
    serial: int
    files: int
    bytes: int
    local: int
    faults: int


@contextmanager
def _connected(
    serverdir: Serverdir, primary_url: str | None, settings: Settings, context: Context, patience: Patience
) -> Iterator[tuple[Session, Pipeline]]:
    """Hold a standby that is connected to its primary, with everything finished that was interrupted."""
    with ExitStack() as stack:
        session = stack.enter_context(Session.open(serverdir, settings, context))
        warn_of_readers(serverdir, context.log)
        source = session.source
        url = normalized_url(primary_url) if primary_url else source.primary_url
        primary = stack.enter_context(session.primary(url))
        work = session.following(primary, local_files(serverdir, settings))
        work.recover()
        _expire(session)
        if url != source.primary_url:
            # Only after the server behind the new URL has shown that it is the same one.
            patience.call(work.check_identity)
            # The row is last: where it is there, `.nodeinfo` is right.
            info = serverdir.nodeinfo() or {}
            serverdir.write_nodeinfo({**info, "masterurl": plain_url(url)})
            session.store.put_source(replace(source, primary_url=url))
        yield session, work


def _expire(session: Session) -> None:
    days, at_once = session.settings.retention_days, session.settings.expire_at_once
    try:
        expire_retained(session.store, session.files, days, clock.now(), at_once=at_once)
    except LocalFailure as err:
        # It can wait; what is to be applied cannot, and says whether it can be.
        session.context.log.warning("retained files are not removed", error=str(err))


def run_catchup(
    serverdir: Serverdir,
    settings: Settings,
    context: Context,
    *,
    primary_url: str | None = None,
    to_serial: int | None = None,
    timeout: float | None = None,
) -> CaughtUp:
    """Apply everything up to the primary's serial as of now, or up to `to_serial`.

    timeout: seconds after which the run ends, wherever it is.
    Raises ConditionFailed where the timeout passed or `to_serial` cannot be reached, and whatever the
    primary or the disk may do; the standby stays at its last complete serial.
    """
    if timeout is not None:
        context.stop.limit(timeout)
        access = settings.access
        settings = replace(settings, access=replace(access, silence=min(access.silence, timeout)))
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with _connected(serverdir, primary_url, settings, context, patience) as (session, work):
        store = session.store
        first = store.last_serial()
        with session.recorded("catchup"):
            catch_up(work, store.last_serial, patience, to_serial=to_serial)
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
    """Apply each change as it is committed until told to stop.

    timeout: seconds for which failures that may pass are borne; None for ever.
    Raises Stopped when told to stop, and errors that do not pass.
    """
    patience = Patience(context.stop, context.log, seconds=timeout, local=timeout is None)
    with (
        _connected(serverdir, primary_url, settings, context, patience) as (session, work),
        session.recorded("follow"),
    ):
        store = session.store
        context.log.info("following", serial=store.last_serial())
        reported = store.last_serial()

        def report() -> None:
            nonlocal reported
            serial = store.last_serial()
            if serial != reported:
                context.log.info("applied", serial=serial, entries=serial - reported)
                reported = serial

        def chores() -> None:
            work.wanted.retry(_CHORE_FILES)
            _expire(session)

        follow(work, store.last_serial, patience, on_step=report, chores=chores)
