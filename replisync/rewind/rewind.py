"""Rewind a standby to an older serial, from which it can follow a primary whose history diverged there.

The order is that of every commit: first the files that the older serial needs are durably here, then one
transaction reverts changelog, keys and our tables, then the files of later serials are retained.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from replisync.changelog import Commit, Fault, FileStore, Source
from replisync.errors import Advice, ConditionFailed, Hint
from replisync.primary import Primary
from replisync.replication import Context, Judgement, judge
from replisync.rewind.files import Bringer, Found, leaving
from replisync.rewind.undo import Undo, plan
from replisync.session import Session, Settings
from replisync.standby import Serverdir
from replisync.system import clock

# The number of missing files that are named one by one.
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Rewound:
    """The result of a rewind, or of a dry run.

    entries: the number of reverted serials.
    restored, fetched: files from the retained folder, and from the primary.
    put_aside: files of later serials that are retained now.
    missing: files that the serial needs and that are not available.
    """

    serverdir: str
    from_serial: int
    to_serial: int
    entries: int
    restored: int
    fetched: int
    put_aside: int
    missing: int
    dry_run: bool


def rewind(
    serverdir: Serverdir,
    to_serial: int,
    settings: Settings,
    context: Context,
    *,
    accept_loss: bool = False,
    dry_run: bool = False,
) -> Rewound:
    """Rewind a standby to a serial; after an interruption, the same call finishes it.

    settings: with a secret, files that are no longer retained are requested from the primary.
    accept_loss: continue without files of private stages that the serial needs and that are missing.
    dry_run: change nothing.
    Raises TargetUnusable if it is not a standby that we may write, ConditionFailed if it cannot go back that
    far, or something would be missing; nothing is changed then.
    """
    with ExitStack() as stack:
        session = stack.enter_context(Session.open(serverdir, settings, context))
        last = session.store.last_serial()
        _check_reachable(serverdir, session.source, last, to_serial)
        primary = stack.enter_context(session.primary()) if settings.access.has_secret else None
        if dry_run:
            bringer = Bringer(session, primary)
            undo = plan(session.store, to_serial)
            found = bringer.look(undo)
            verdict = judge(session.store, found.refused, undo)
            _refuse_loss(verdict, to_serial, accept_loss=accept_loss, asked=bringer.asks)
            aside = len(leaving(session.files, undo, found))
            return _result(serverdir, undo, found, aside=aside, dry_run=True)
        with session.recorded("rewind"):
            done = take_back(session, primary, to_serial, accept_loss=accept_loss)
        context.log.info("rewound", from_serial=last, serial=to_serial)
        return done


def take_back(
    session: Session, primary: Primary | None, to_serial: int, *, accept_loss: bool = False
) -> Rewound:
    """Rewind a standby that is open.

    primary: the source of files that are no longer retained; None not to ask it.
    """
    serverdir, store, files = session.serverdir, session.store, session.files
    bringer = Bringer(session, primary)
    session.recover()
    undo = plan(store, to_serial)
    found = bringer.bring(undo)
    if undo.first == undo.last:
        return _result(serverdir, undo, found, aside=0, dry_run=False)
    verdict = judge(store, found.refused, undo)
    try:
        _refuse_loss(verdict, to_serial, accept_loss=accept_loss, asked=bringer.asks)
    except ConditionFailed:
        session.recover()  # all files are as they were
        raise
    commit = _commit(files, undo, found, verdict)
    # Before the commit: handling an event twice does no harm, never handling it would.
    serverdir.lower_event_serial(to_serial)
    store.rewind(commit, to_serial)
    session.recover()
    return _result(serverdir, undo, found, aside=len(commit.leaving) + len(commit.staged), dry_run=False)


def _check_reachable(serverdir: Serverdir, source: Source, last: int, to_serial: int) -> None:
    attempted = f"cannot rewind {serverdir} to serial {to_serial}"
    if to_serial > last:
        raise ConditionFailed(attempted, f"the standby is at serial {last}")
    if source.based_on >= 0:
        # Only for the last entry is the primary's own known.
        raise ConditionFailed(
            attempted,
            "it was seeded from an export, and could not compare the primary's history at an earlier serial",
            hint=Hint("rebuild it with {}", Advice("clone", reseed=True)),
        )


def _commit(files: FileStore, undo: Undo, found: Found, verdict: Judgement) -> Commit:
    faults = (*verdict.faults, *map(_given_up, verdict.held))
    return Commit(undo, found.present, found.staged, leaving(files, undo, found), verdict.absent, faults)


def _given_up(fault: Fault) -> Fault:
    return replace(fault, kind="skipped", next_try=clock.now())


def _refuse_loss(verdict: Judgement, to_serial: int, *, accept_loss: bool, asked: bool) -> None:
    """Raise ConditionFailed if files would be missing without the consent of the operator.

    asked: whether the primary was asked for them.
    """
    if accept_loss or not verdict.held:
        return
    relpaths = sorted(fault.relpath for fault in verdict.held)
    first = verdict.held[0]
    more = f", and {len(relpaths) - 1} more" if len(relpaths) > 1 else ""
    error = ConditionFailed(
        f"cannot rewind to serial {to_serial}",
        f"it needs {first.relpath}{more}, which is missing: {first.reason}",
        hint="nothing was changed; "
        + ("" if asked else "let it ask the primary (--secretfile or --replica-keyfile), ")
        + "choose another serial, or rewind without these files with --accept-loss",
    )
    error.details["missing_files"] = relpaths[:_NAMED]
    raise error


def _result(serverdir: Serverdir, undo: Undo, found: Found, *, aside: int, dry_run: bool) -> Rewound:
    return Rewound(
        serverdir=str(serverdir),
        from_serial=undo.last - 1,
        to_serial=undo.first - 1,
        entries=undo.last - undo.first,
        restored=found.restored,
        fetched=found.fetched,
        put_aside=aside + (len(found.staged) if dry_run else 0),
        missing=len(found.refused),
        dry_run=dry_run,
    )
