"""A new standby beside the present one, which is followed and serves until the new one takes its place.

The new one is made as any other clone, with files linked from the present one. When it is complete and
proved, both are locked, it is brought up to date once more, and their folders exchange their names.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from replisync.changelog.records import Source
from replisync.devpi.storage import SQLITE, Storage
from replisync.errors import TargetLocked, TargetUnusable, UsageError, VerificationFailed, WrongHistory
from replisync.operations.follow import run_catchup
from replisync.operations.swap import Swap
from replisync.replication.context import Context
from replisync.replication.loop import Patience
from replisync.replication.wanted import Tally
from replisync.seed.export.tools import ToolOptions
from replisync.seed.forecast.forecast import forecast, forecast_rest
from replisync.seed.forecast.survey import Forecast
from replisync.seed.target import Cloned
from replisync.seed.ways import Seed, Sources, clone
from replisync.session.runs import recorded
from replisync.session.settings import Settings
from replisync.standby.opening import (
    existing_standby,
    open_database,
    require_same,
    require_standby,
    warn_of_readers,
)
from replisync.standby.serverdir import Serverdir
from replisync.system import clock
from replisync.system.advice import quoted
from replisync.verify.run import Level, verify

# What is in a serverdir that a new one has of its own, or need not have.
_NOT_MISSED = frozenset(
    {".event_serial", ".indices", ".nodeinfo", ".replisync", ".serverversion", "+files", "lost+found"}
)


@dataclass(frozen=True, slots=True)
class Reseeded:
    """What a reseed ended with.

    kept: where the former standby is.
    left: what is in it that the new one does not have.
    cloned: how the new one was made; None where it was complete before.
    """

    serial: int
    kept: Path
    left: list[str]
    cloned: Cloned | None


def reseed(
    serverdir: Path,
    storage: Storage | None,
    password: str | None,
    sources: Sources,
    seed: Seed,
    options: ToolOptions,
    settings: Settings,
    context: Context,
) -> Reseeded:
    """Make a standby anew, and put it in the place of the present one; interrupted, the same call goes on.

    serverdir: of the present standby.
    storage: the new one's; None for SQLite.
    password: of a database, where `storage` has none.
    sources: as for a clone; without a primary it is the one that the present standby knows.
    Raises TargetUnusable where the present one is no standby, is promoted, or is still being followed when
    its place is needed, VerificationFailed where the new one is not what it should be, and what a clone
    does. The present one is not written to in any case.
    """
    swap = Swap(serverdir)
    present = Serverdir(swap.present, password=password)
    kept = swap.finish()
    if kept is not None:
        return _result(Serverdir(swap.present, storage, password=password), kept, None)
    source = _standby(present)
    _check_storage(present, storage)
    sources = replace(sources, primary_url=sources.primary_url or source.primary_url)
    sources.check(seed, options)
    swap.check()
    warn_of_readers(present, context.log)
    _check_primary(sources, source, settings, context)
    new = Serverdir(swap.claim(source.uuid).root, storage, password=password)
    settings = replace(settings, linked=(present.files,) if present.files.is_dir() else ())
    cloned = None
    if new.role() is None:
        cloned = clone(new, sources, seed, options, settings, context)
    run_catchup(new, settings, context)
    _prove(new, context)
    kept = _take_place(swap, present, new, source, settings, context)
    return _result(Serverdir(swap.present, storage, password=password), kept, cloned)


def forecast_reseed(
    serverdir: Path,
    storage: Storage | None,
    password: str | None,
    sources: Sources,
    seed: Seed,
    options: ToolOptions,
    settings: Settings,
    context: Context,
) -> Forecast:
    """Return what a reseed would fetch, or what is left of one that was interrupted; arguments as there.

    Raises what `reseed` would raise before it writes.
    """
    swap = Swap(serverdir)
    present = Serverdir(swap.present, password=password)
    source = _standby(present)
    _check_storage(present, storage)
    sources = replace(sources, primary_url=sources.primary_url or source.primary_url)
    sources.check(seed, options)
    _check_primary(sources, source, settings, context)
    settings = replace(settings, linked=(present.files,) if present.files.is_dir() else ())
    new = Serverdir(swap.new, storage, password=password)
    if new.is_ours() and new.role() is not None:
        # It is complete, and waits for its place.
        assert sources.primary_url is not None  # noqa: S101 - the present standby has one
        return forecast_rest(new, sources.primary_url, settings, context)
    return forecast(new, sources, seed, options, settings, context)


def _standby(present: Serverdir) -> Source:
    """Return where the present standby's data comes from, without writing to it.

    Raises TargetUnusable where it is no complete standby, or promoted.
    """
    require_standby(present)
    with open_database(present) as store:
        require_same(present, store)
        store.check_version()
        source = store.source()
    if source is None or source.seed_finished is None or source.promoted is not None:
        raise TargetUnusable(
            f"cannot reseed {present}",
            "it was promoted, or its seeding is not complete",
            hint="a promoted server is never touched; clone into another --serverdir",
        )
    return source


def _check_storage(present: Serverdir, storage: Storage | None) -> None:
    known = present.storage()
    if known.name == SQLITE or (storage is not None and storage.name == SQLITE):
        return
    if storage is None or storage.settings == known.settings:
        raise UsageError(
            f"cannot reseed {present}",
            "its database is in use until the new standby takes its place",
            hint="name another, empty database with --storage; PGPASSWORD has the password of both",
        )


def _check_primary(sources: Sources, source: Source, settings: Settings, context: Context) -> None:
    """Make sure that the new standby is one of the same primary.

    Raises WrongHistory.
    """
    assert sources.primary_url is not None  # noqa: S101 - the present standby has one
    access, url = settings.access, sources.primary_url
    with access.primary(url, source.uuid, source.primary_uuid, secret=False) as primary:
        Patience(context.stop, context.log, seconds=settings.patience).call(primary.hello)


def _prove(new: Serverdir, context: Context) -> None:
    """Verify the new standby at level full, unless that was done: every change since is checked as it comes.

    Raises VerificationFailed.
    """
    with open_database(new) as store:
        done = store.last_verification()
    if done is not None and done.outcome == "ok" and Level.of(done.level) >= Level.FULL:
        return
    report = verify(new, Level.FULL, context)
    if report.total:
        first = (
            f", such as {report.findings[0].kind}: {report.findings[0].subject}" if report.findings else ""
        )
        raise VerificationFailed(
            f"cannot verify the new standby {new}",
            f"{report.total} findings remain{first}",
            serial=report.serial,
            hint="the present standby stays in its place; "
            f"`replisync verify --serverdir {quoted(new.root)}` lists them; "
            "without that folder the same command starts over",
        )


def _take_place(
    swap: Swap, present: Serverdir, new: Serverdir, source: Source, settings: Settings, context: Context
) -> Path:
    with ExitStack() as stack:
        try:
            stack.enter_context(present.lock())
        except TargetLocked as err:
            raise TargetLocked(
                f"cannot reseed {present}",
                err.why,
                hint="the new standby is complete: stop `replisync follow`, then run the same command again, "
                "which only brings the new one up to date and puts it in its place",
            ) from err
        # It may have been promoted, or made anew, since we looked.
        if _standby(present).uuid != source.uuid:
            raise TargetUnusable(f"cannot reseed {present}", "another standby was put in its place meanwhile")
        run_catchup(new, settings, context)
        store, its = stack.enter_context(existing_standby(new))
        if its.primary_uuid != source.primary_uuid:
            raise WrongHistory(f"cannot reseed {present}", "the new standby is one of another primary")
        with closing(store), recorded(store, "reseed", Tally()):
            serial = store.last_serial()
            why = f"; {its.seed_reason}" if its.seed_reason else ""
            reason = f"put by --reseed in the place of the standby {source.uuid}{why}"
            store.put_source(replace(its, seed_reason=reason))
        # A database that is open would look for its journal under the name that it had.
        context.log.info("taking the place", serial=serial, serverdir=str(present))
        # Once more, since a devpi-server that is started as primary does not ask for our lock.
        require_standby(present)
        moment = clock.now().replace("-", "").replace(":", "").partition(".")[0] + "Z"
        return swap.exchange(source.uuid, moment)


def _result(serverdir: Serverdir, kept: Path, cloned: Cloned | None) -> Reseeded:
    with open_database(serverdir) as store:
        serial = store.last_serial()
    names = os.listdir(kept) if kept.is_dir() else []
    left = [name for name in names if name not in _NOT_MISSED and not name.startswith(".sqlite")]
    return Reseeded(serial, kept, sorted(left), cloned)
