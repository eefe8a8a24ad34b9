"""Rebuild a standby: create a new one next to it, which takes its place once it verifies.

The new one is cloned as usual, with files linked from the present one, which can be followed and served
meanwhile. Once it is complete and verified, both are locked, it catches up once more, and the two folders
exchange their names.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from replisync.changelog import Source
from replisync.devpi import SQLITE, Storage
from replisync.errors import (
    Advice,
    Hint,
    TargetLocked,
    TargetUnusable,
    UsageError,
    VerificationFailed,
    WrongHistory,
)
from replisync.operations.follow import run_catchup
from replisync.operations.swap import Swap
from replisync.replication import Context, Patience, Tally
from replisync.seed import Cloned, Forecast, Seeding, Sources, clone, forecast, forecast_rest
from replisync.session import Settings, recorded
from replisync.standby import (
    Serverdir,
    existing_standby,
    open_database,
    require_same,
    require_standby,
    warn_of_readers,
)
from replisync.system import clock, quoted
from replisync.verify import Level, verify

# Entries of a serverdir that a new one creates itself, or does not need.
_NOT_MISSED = frozenset(
    {".event_serial", ".indices", ".nodeinfo", ".replisync", ".serverversion", "+files", "lost+found"}
)


@dataclass(frozen=True, slots=True)
class Reseeded:
    """The result of a reseed.

    kept: the path of the old standby.
    left: its content that the new one does not have.
    cloned: the result of the clone; None if it was complete before.
    """

    serial: int
    kept: Path
    left: list[str]
    cloned: Cloned | None


def reseed(
    serverdir: Path,
    storage: Storage | None,
    password: str | None,
    seeding: Seeding,
    settings: Settings,
    context: Context,
) -> Reseeded:
    """Rebuild a standby and swap it in; after an interruption, the same call resumes.

    serverdir: of the present standby.
    storage: of the new one; None for SQLite.
    password: of the database, if `storage` has none.
    seeding: as for a clone; the default primary is the one that the present standby knows.
    Raises TargetUnusable if the present one is not a standby, is promoted, or is still followed when it must
    be swapped, VerificationFailed if the new one has findings, and the errors of a clone. The present one is
    never written to.
    """
    swap = Swap(serverdir)
    present = Serverdir(swap.present, password=password)
    kept = swap.finish()
    if kept is not None:
        return _result(Serverdir(swap.present, storage, password=password), kept, None)
    source = _standby(present)
    _check_storage(present, storage)
    seeding = _of_its_primary(seeding, source)
    seeding.check()
    swap.check()
    warn_of_readers(present, context.log)
    _check_primary(seeding.sources, source, settings, context)
    new = Serverdir(swap.claim(source.uuid).root, storage, password=password)
    settings = replace(settings, linked=(present.files,) if present.files.is_dir() else ())
    cloned = None
    if new.role() is None:
        cloned = clone(new, seeding, settings, context)
    run_catchup(new, settings, context)
    _prove(new, context)
    kept = _take_place(swap, present, new, source, settings, context)
    return _result(Serverdir(swap.present, storage, password=password), kept, cloned)


def forecast_reseed(
    serverdir: Path,
    storage: Storage | None,
    password: str | None,
    seeding: Seeding,
    settings: Settings,
    context: Context,
) -> Forecast:
    """Return what a reseed would fetch, or the rest of an interrupted one; arguments as there.

    Raises the errors that `reseed` raises before it writes.
    """
    swap = Swap(serverdir)
    present = Serverdir(swap.present, password=password)
    source = _standby(present)
    _check_storage(present, storage)
    seeding = _of_its_primary(seeding, source)
    seeding.check()
    _check_primary(seeding.sources, source, settings, context)
    settings = replace(settings, linked=(present.files,) if present.files.is_dir() else ())
    new = Serverdir(swap.new, storage, password=password)
    if new.is_ours() and new.role() is not None:
        # It is complete, and waits for the swap.
        url = seeding.sources.primary_url
        assert url is not None  # noqa: S101 - the present standby has one
        return forecast_rest(new, url, settings, context)
    return forecast(new, seeding, settings, context)


def _of_its_primary(seeding: Seeding, source: Source) -> Seeding:
    url = seeding.sources.primary_url or source.primary_url
    return replace(seeding, sources=replace(seeding.sources, primary_url=url))


def _standby(present: Serverdir) -> Source:
    """Return the source of the present standby, without writing to it.

    Raises TargetUnusable if it is not a complete standby, or promoted.
    """
    require_standby(present)
    with open_database(present) as store:
        require_same(present, store)
        store.check_version()
        source = store.source()
    if source is None or source.seed_finished is None or source.promoted is not None:
        raise TargetUnusable(
            f"cannot rebuild {present}",
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
            f"cannot rebuild {present}",
            "its database is in use until the new standby takes its place",
            hint="name another, empty database with --storage, and set PGPASSWORD to the password of both",
        )


def _check_primary(sources: Sources, source: Source, settings: Settings, context: Context) -> None:
    """Check that the new standby follows the same primary.

    Raises WrongHistory.
    """
    assert sources.primary_url is not None  # noqa: S101 - the present standby has one
    access, url = settings.access, sources.primary_url
    with access.primary(url, source.uuid, source.primary_uuid, secret=False) as primary:
        Patience(context.stop, context.log, seconds=settings.patience).call(primary.hello)


def _prove(new: Serverdir, context: Context) -> None:
    """Verify the new standby at level full, unless already done: all later changes were checked on arrival.
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
            hint=Hint(
                "the present standby stays in its place; list the findings with {}; to start over, remove "
                "that folder and run the same command again",
                Advice("verify", serverdir=quoted(new.root)),
            ),
        )


def _take_place(
    swap: Swap, present: Serverdir, new: Serverdir, source: Source, settings: Settings, context: Context
) -> Path:
    with ExitStack() as stack:
        try:
            stack.enter_context(present.lock())
        except TargetLocked as err:
            raise TargetLocked(
                f"cannot rebuild {present}",
                err.why,
                hint="stop `follow`, then run the same command again: the new standby is complete, and only "
                "needs to catch up and be swapped in",
            ) from err
        # It may have been promoted or rebuilt since we looked.
        if _standby(present).uuid != source.uuid:
            raise TargetUnusable(f"cannot rebuild {present}", "another standby took its place")
        run_catchup(new, settings, context)
        store, its = stack.enter_context(existing_standby(new))
        if its.primary_uuid != source.primary_uuid:
            raise WrongHistory(f"cannot rebuild {present}", "the new standby follows another primary")
        with closing(store), recorded(store, "reseed", Tally()):
            serial = store.last_serial()
            why = f"; {its.seed_reason}" if its.seed_reason else ""
            reason = f"put by --reseed in the place of the standby {source.uuid}{why}"
            store.put_source(replace(its, seed_reason=reason))
        # An open database would look for its journal under its old name.
        context.log.info("swapping in the new standby", serial=serial, serverdir=str(present))
        # Check once more: a devpi-server that is started as primary does not respect our lock.
        require_standby(present)
        moment = clock.now().replace("-", "").replace(":", "").partition(".")[0] + "Z"
        return swap.exchange(source.uuid, moment)


def _result(serverdir: Serverdir, kept: Path, cloned: Cloned | None) -> Reseeded:
    with open_database(serverdir) as store:
        serial = store.last_serial()
    names = os.listdir(kept) if kept.is_dir() else []
    left = [name for name in names if name not in _NOT_MISSED and not name.startswith(".sqlite")]
    return Reseeded(serial, kept, sorted(left), cloned)
