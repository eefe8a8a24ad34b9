"""A verification from its beginning to its end: open, look, look again, remember."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from itertools import chain, islice

from replisync.changelog.ports import History
from replisync.changelog.records import Source
from replisync.devpi.entries import same_entry
from replisync.errors import Advice, Hint, ReplisyncError, TargetUnusable, UnreadableText, UsageError
from replisync.replication.context import Context
from replisync.replication.loop import Patience
from replisync.session.settings import Settings
from replisync.standby.database import audit
from replisync.standby.database.store import Store
from replisync.standby.opening import open_database, require_ours, require_replica, survey_of
from replisync.standby.serverdir import Serverdir
from replisync.system import clock
from replisync.system.prefetch import Prefetch
from replisync.verify.checks import history, quick, rows
from replisync.verify.checks import ledger as states
from replisync.verify.checks import present as files
from replisync.verify.checks import primary as theirs
from replisync.verify.checks import source as sources
from replisync.verify.checks import superfluous as strangers
from replisync.verify.checks.passwords import PrimaryUsers, look_at_passwords
from replisync.verify.checks.retained import look_at_retained
from replisync.verify.findings import SOURCE, Finding, Findings, Report
from replisync.verify.owner import owner_of
from replisync.verify.scratch import Scratch
from replisync.verify.standing import record
from replisync.verify.subject import Subject

# In which a commit that is going on, and the moves on disk that follow it, come to their end.
_MOMENT_SECONDS = 1.0

_ANEW = Hint("rebuild it with {}", Advice("clone", reseed=True))

_SOURCE = "replisync_source"

# A rewind meanwhile makes all that was read worthless; so often it is begun anew.
_TRIES = 5

# Names of files that are read together, and how many such pages at most while digests are computed.
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
    """Look whether a standby is what it should be; also while it is followed.

    settings: how the primary is asked, which the level of this name alone does.
    Writes nothing but what is remembered of the verification itself.
    Raises TargetUnusable if it is no standby that can be judged, Stopped, and what asking the primary
    raises.
    """
    with ExitStack() as stack:
        store = stack.enter_context(readable(serverdir))
        source = judged_source(serverdir, store)
        compare = users = None
        if level == Level.PRIMARY:
            if not source.primary_url:
                raise UsageError(
                    f"cannot verify {serverdir} against its primary",
                    "it has none: it was made as a server of its own",
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
    """Compare the history with a primary's."""
    theirs.compare(subject, primary, patience, upto)
    if subject.source.based_on >= 0:
        _compare_tip(subject, primary, patience, upto)
    if upto >= 0 and not subject.checked["primary_entries"]:
        finding = Finding(
            SOURCE, "changelog", upto, "entries that are the primary's", "none to compare", _ANEW
        )
        subject.findings.suspect(finding, lambda: finding)


def _compare_tip(subject: Subject, primary: History, patience: Patience, upto: int) -> None:
    """Compare the primary's bytes of our last entry, as we keep them where ours are others.

    Raises WrongHistory if the primary has another entry there.
    """
    tip, _, _ = audit.tip_now(subject.store)
    if tip is None:
        return
    serial, data = tip
    entry = patience.call(lambda: primary.entry(serial)[1])
    if not subject.source.based_on < serial <= upto:
        # Others are among those that were compared.
        subject.checked["primary_entries"] += 1
    # It may be what is damaged, which is a finding already.
    if sources.wrong_tip(subject) is not None or (entry is not None and same_entry(data, entry.data)):
        return
    # It may have moved on meanwhile.
    if audit.tip_now(subject.store)[0] == tip:
        patience.call(lambda: theirs.check_same_history(subject, primary, serial))


def look(
    subject_now: Callable[[], Subject],
    level: Level,
    *,
    compare: Compare | None = None,
    users: PrimaryUsers | None = None,
) -> Report:
    """Look at a target whose database is open.

    subject_now: returns it as nothing was looked at yet; called again if all that was read is worthless.
    compare: compares its history with the primary's.
    users: the primary's; None if it is not to be asked for them.
    """
    started, began = clock.now(), time.monotonic()
    # Texts that cannot be read make themselves known as soon as they are; a repair must know of all.
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
        subject.context.log.info("it was rewound meanwhile, looking again")
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
    """Return what is to be looked at.

    alone: whether we hold its lock.
    """
    cores = len(os.sched_getaffinity(0))
    survey = survey_of(serverdir, store, cores)
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
        # While other threads compute digests this one has time to read names.
        with Prefetch(_pages(subject.survey.names()), most=_NAME_PAGES) as pages:
            with subject.stage("files"):
                files.files(subject, digests=True)
                look_at_retained(subject)
            with subject.stage("files in place"):
                strangers.strangers(subject, chain.from_iterable(page or () for page in pages))
        if compare is not None:
            with subject.stage("primary"):
                # What somebody else wrote behind our last commit nobody says to be the primary's.
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
    """Open the database of a standby for reading, also where nobody can write.

    Raises TargetUnusable if it is none of ours, or one that we do not know.
    """
    attempted = f"cannot verify {serverdir}"
    require_ours(serverdir)
    if serverdir.remembered_storage() is None:
        raise TargetUnusable(attempted, "its clone has not begun")
    with open_database(serverdir) as store:
        store.check_version()
        yield store


def judged_source(serverdir: Serverdir, store: Store) -> Source:
    """Return where a standby's data comes from.

    Raises TargetUnusable if it is not complete, or is no standby any more.
    """
    attempted = f"cannot verify {serverdir}"
    source = None if _SOURCE in store.missing_objects() else store.source()
    if source is None and sources.is_replica(serverdir):
        raise TargetUnusable(
            attempted, "its database does not know any more where the standby comes from", hint=_ANEW
        )
    if source is None or (source.seed_finished is None and not sources.is_handed_over(serverdir, source)):
        raise TargetUnusable(
            attempted, "its clone is not complete", hint="run the same `clone` again: it resumes"
        )
    if quick.tables_missing(store):
        return source
    position = audit.position(store)
    became = f"was promoted at {source.promoted}" if source.primary_url else "was made a server of its own"
    if source.is_server and position.last > position.committed:
        raise TargetUnusable(
            attempted,
            f"it {became}, and a devpi-server has written to it since",
            hint="such a server is judged by devpi-fsck",
        )
    return sources.usable(source, store, position.last)


def remember(serverdir: Serverdir, source: Source, report: Report, context: Context) -> None:
    """Write down what was found, for `status` and `promote`; not where nobody can or may write."""
    _write(serverdir, source, context, partial(record, report=report))


def _write(serverdir: Serverdir, source: Source, context: Context, work: Callable[[Store], object]) -> None:
    """Write to a standby that is only read otherwise, unless we cannot or must not write to it."""
    if source.is_server or not os.access(serverdir.root, os.W_OK):
        return

    def guard() -> None:
        try:
            info = serverdir.nodeinfo() or {}
        except TargetUnusable:
            return  # it cannot be read, which is among the findings
        if info.get("uuid") == source.uuid:
            require_replica(serverdir, str(info.get("role")))

    try:
        with open_database(serverdir, write=True, guard=guard) as store:
            work(store)
    except ReplisyncError as err:
        context.log.warning("the verification is not remembered", error=str(err))
