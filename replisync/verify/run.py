"""A verification from start to end: open, check, check again, record."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from itertools import chain, islice

from replisync.changelog import History, Source
from replisync.devpi import same_entry
from replisync.errors import Advice, Hint, ReplisyncError, TargetUnusable, UnreadableText, UsageError
from replisync.replication import Context, Patience
from replisync.session import Settings
from replisync.standby import Serverdir, Store, audit, open_database, require_ours, require_replica
from replisync.system import Prefetch, clock
from replisync.verify.checks import history, quick, rows, superfluous
from replisync.verify.checks import ledger as states
from replisync.verify.checks import present as files
from replisync.verify.checks import primary as theirs
from replisync.verify.checks import source as sources
from replisync.verify.checks.passwords import PrimaryUsers, look_at_passwords
from replisync.verify.checks.retained import look_at_retained
from replisync.verify.findings import SOURCE, Finding, Findings, Report
from replisync.verify.owner import owner_of
from replisync.verify.scratch import Scratch
from replisync.verify.standing import record
from replisync.verify.subject import Subject

# Time for a commit in progress, and the moves on disk that follow it, to end.
_MOMENT_SECONDS = 1.0

_ANEW = Hint("rebuild it with {}", Advice("clone", reseed=True))

_SOURCE = "replisync_source"

# The number of tries: a rewind meanwhile makes everything read so far useless.
_TRIES = 5

# The number of file names to read together, and the most such pages while digests are computed.
_NAMES = 2000
_NAME_PAGES = 100


class Level(IntEnum):
    """How much to check; each level includes those before it."""

    QUICK = 1
    FILES = 2
    FULL = 3
    PRIMARY = 4

    @classmethod
    def of(cls, name: str) -> "Level":
        """Return the level of this name."""
        return cls[name.upper()]

    def __str__(self) -> str:
        return self.name.lower()


# Compares the history up to a serial with another one.
Compare = Callable[[Subject, int], None]


def verify(serverdir: Serverdir, level: Level, context: Context, settings: Settings | None = None) -> Report:
    """Verify a standby, also while it is followed.

    settings: how to ask the primary, for the level of this name only.
    Writes only the record of the verification itself.
    Raises TargetUnusable if it is not a standby that can be verified, Stopped, and the errors of asking the
    primary.
    """
    with ExitStack() as stack:
        store = stack.enter_context(readable(serverdir))
        source = judged_source(serverdir, store)
        compare = users = None
        if level == Level.PRIMARY:
            if not source.primary_url:
                raise UsageError(
                    f"cannot verify {serverdir} against its primary",
                    "it has none: it was created as a standalone server",
                    hint="use --level full",
                )
            settings = settings or Settings()
            primary = stack.enter_context(
                settings.access.primary(source.primary_url, source.uuid, source.primary_uuid)
            )
            patience = Patience(context.stop, context.log, seconds=settings.patience)
            compare = partial(compare_with, primary, patience)
            users = PrimaryUsers(primary, patience)
        subject = partial(subject_of, serverdir, store, source, context)
        report = look(subject, level, compare=compare, users=users)
    remember(serverdir, source, report, context)
    return report


def compare_with(primary: History, patience: Patience, subject: Subject, upto: int) -> None:
    """Compare the history with the primary's."""
    theirs.compare(subject, primary, patience, upto)
    if subject.source.based_on >= 0:
        _compare_tip(subject, primary, patience, upto)
    if upto >= 0 and not subject.checked["primary_entries"]:
        finding = Finding(
            SOURCE, "changelog", upto, "entries that are the primary's", "none to compare", _ANEW
        )
        subject.findings.suspect(finding, lambda: finding)


def _compare_tip(subject: Subject, primary: History, patience: Patience, upto: int) -> None:
    """Compare the primary's bytes of our last entry, which we store if ours differ.

    Raises WrongHistory if the primary has another entry there.
    """
    tip, _, _ = audit.tip_now(subject.store)
    if tip is None:
        return
    serial, data = tip
    entry = patience.call(lambda: primary.entry(serial)[1])
    if not subject.source.based_on < serial <= upto:
        # In all other cases it was compared already.
        subject.checked["primary_entries"] += 1
    # It may be damaged, which is a finding already.
    if sources.wrong_tip(subject) is not None or (entry is not None and same_entry(data, entry.data)):
        return
    # It may have moved meanwhile.
    if audit.tip_now(subject.store)[0] == tip:
        patience.call(lambda: theirs.check_same_history(subject, primary, serial))


def look(
    subject_now: Callable[[], Subject],
    level: Level,
    *,
    compare: Compare | None = None,
    users: PrimaryUsers | None = None,
) -> Report:
    """Verify a target whose database is open.

    subject_now: returns it without any results; called again if everything read so far is useless.
    compare: compares its history with the primary's.
    users: the primary's; None not to ask for them.
    """
    started, began = clock.now(), time.monotonic()
    # Unreadable texts show up as soon as they are read; a repair must know of all.
    subject = subject_now()
    texts = subject.alone
    for attempt in range(_TRIES):
        begun = clock.now()
        subject = subject_now() if attempt else subject
        findings = subject.findings
        try:
            serial = _look(subject, level, compare, users, texts=texts)
            findings.settle()
        except UnreadableText:
            if texts:
                raise
            texts = True
            continue
        store = subject.store
        if subject.alone or quick.tables_missing(store) or not audit.rewound_since(store, begun):
            break
        subject.context.log.info("rewound meanwhile, verifying again")
    return Report(
        level=str(level),
        serial=serial,
        outcome="failed" if findings.total else "ok",
        started=started,
        finished=clock.now(),
        seconds=round(time.monotonic() - began, 3),
        stages=subject.stages,
        counts=dict(findings.counts),
        checked=dict(subject.checked),
        known=dict(subject.known),
        findings=findings.listed,
        total=findings.total,
        notes=subject.notes,
    )


def subject_of(
    serverdir: Serverdir, store: Store, source: Source, context: Context, *, alone: bool = False
) -> Subject:
    """Return the subject of a verification.

    alone: whether we hold its lock.
    """
    cores = len(os.sched_getaffinity(0))
    survey = store.survey(serverdir, cores)
    findings = Findings(lambda: _pause(context, alone=alone))

    def keep(compared: Mapping[int, bytes]) -> None:
        # Past the views that hide rows from `store`.
        _write(serverdir, source, context, lambda own: own.put_witnesses(compared))

    owner = owner_of(serverdir)
    return Subject(serverdir, store, source, survey, findings, context, alone, cores, keep, owner)


def _pages(names: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(names, _NAMES)):
        yield page


def _look(
    subject: Subject, level: Level, compare: Compare | None, users: PrimaryUsers | None, *, texts: bool
) -> int:
    rows.look_at_rows(subject, texts=texts)
    with subject.stage("structure"):
        rows.look_at_structure(subject, pages=level >= Level.FULL)
    serial = audit.position(subject.store).last if not quick.tables_missing(subject.store) else -1
    with subject.stage("quick"):
        more = quick.quick(subject)
        if more:
            sources.look_at_source(subject)
            states.look_at_states(subject)
            files.false_drops(subject)
    if not more or level == Level.QUICK:
        return serial
    if level == Level.FILES:
        with subject.stage("files"):
            files.files(subject, digests=False)
            look_at_retained(subject)
        return serial
    with Scratch(subject.store.holds_key) as scratch:
        with subject.stage("history"):
            serial = history.history(subject, scratch).upto
        # While other threads compute digests, this one has time to read names.
        with Prefetch(_pages(subject.survey.names()), most=_NAME_PAGES) as pages:
            with subject.stage("files"):
                files.files(subject, digests=True)
                look_at_retained(subject)
            with subject.stage("files in place"):
                superfluous.superfluous_files(subject, chain.from_iterable(page or () for page in pages))
        if compare is not None:
            with subject.stage("primary"):
                # Foreign entries after our last commit are not claimed to be the primary's.
                compare(subject, min(serial, audit.position(subject.store).committed))
        with subject.stage("passwords"):
            look_at_passwords(subject, users)
        subject.findings.settle()
    return serial


def _pause(context: Context, *, alone: bool) -> None:
    if not alone:
        context.stop.wait(_MOMENT_SECONDS)
        context.stop.check()


# Opening.


@contextmanager
def readable(serverdir: Serverdir) -> Iterator[Store]:
    """Open the database of a standby for reading, also in a read-only folder.

    Raises TargetUnusable if it is not ours, or of an unknown version.
    """
    attempted = f"cannot verify {serverdir}"
    require_ours(serverdir)
    if serverdir.remembered_storage() is None:
        raise TargetUnusable(attempted, "its clone has not begun")
    with open_database(serverdir) as store:
        store.check_version()
        yield store


def judged_source(serverdir: Serverdir, store: Store) -> Source:
    """Return the source of a standby's data.

    Raises TargetUnusable if it is not complete, or no longer a standby.
    """
    attempted = f"cannot verify {serverdir}"
    source = None if _SOURCE in store.missing_objects() else store.source()
    if source is None and sources.is_replica(serverdir):
        raise TargetUnusable(
            attempted, "its database no longer has the record of the standby's source", hint=_ANEW
        )
    if source is None or (source.seed_finished is None and not sources.is_handed_over(serverdir, source)):
        raise TargetUnusable(
            attempted, "its clone is not complete", hint="run the same `clone` again: it resumes"
        )
    if quick.tables_missing(store):
        return source
    position = audit.position(store)
    became = f"was promoted at {source.promoted}" if source.primary_url else "was made a standalone server"
    if source.is_server and position.last > position.committed:
        raise TargetUnusable(
            attempted,
            f"it {became}, and a devpi-server has written to it since",
            hint="check such a server with devpi-fsck",
        )
    return sources.usable(source, store, position.last)


def remember(serverdir: Serverdir, source: Source, report: Report, context: Context) -> None:
    """Record the findings, for `status` and `promote`; skip it if we cannot or may not write."""
    _write(serverdir, source, context, partial(record, report=report))


def _write(serverdir: Serverdir, source: Source, context: Context, work: Callable[[Store], object]) -> None:
    """Write to a standby that is otherwise only read, unless we cannot or must not write to it."""
    if source.is_server or not os.access(serverdir.root, os.W_OK):
        return

    def guard() -> None:
        try:
            info = serverdir.nodeinfo() or {}
        except TargetUnusable:
            return  # it cannot be read, which is a finding
        if info.get("uuid") == source.uuid:
            require_replica(serverdir, str(info.get("role")))

    try:
        with open_database(serverdir, write=True, guard=guard) as store:
            work(store)
    except ReplisyncError as err:
        context.log.warning("the verification is not recorded", error=str(err))
