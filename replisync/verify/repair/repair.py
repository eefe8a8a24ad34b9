"""Repair of a standby: repair the findings of a verification as far as possible, then verify again.

The order is that of every commit: files are durably in place before a transaction names them, and are
retained after it. Each step can be repeated, so that after an interruption the repair simply starts again.
"""

from contextlib import ExitStack, suppress
from functools import partial

from replisync.changelog import FileSource
from replisync.devpi import ChangelogEntry, standby_nodeinfo
from replisync.errors import CorruptEntry, Hint, PrimaryUnreachable, TargetUnusable
from replisync.primary import Primary
from replisync.replication import Context, NoSource
from replisync.session import Session, Settings, local_files
from replisync.standby import Serverdir, audit, invalidrows, require_ours
from replisync.system import clock, local_errors
from replisync.verify import findings as kinds
from replisync.verify.checks.modes import grant, wrong_modes
from replisync.verify.checks.passwords import PrimaryUsers, repair_passwords
from replisync.verify.checks.quick import tables_missing, temporary
from replisync.verify.checks.retained import forget_lost
from replisync.verify.checks.source import repair_source
from replisync.verify.findings import Report
from replisync.verify.owner import give, give_folders, owner_of
from replisync.verify.repair.files import Bringer, repair_files, repair_states, retain_leftovers
from replisync.verify.repair.history import repair_history
from replisync.verify.repair.opening import opened, refuse_server
from replisync.verify.reports import both, joined
from replisync.verify.run import Level, compare_with, judged_source, look, subject_of
from replisync.verify.standing import record
from replisync.verify.subject import Subject

# Kinds that need a repair of the database's rows.
_ROWS = frozenset(
    {
        kinds.POSITION,
        kinds.MISSING_ENTRY,
        kinds.DAMAGED_ENTRY,
        kinds.OTHER_ENTRY,
        kinds.BACK_SERIAL,
        kinds.KEY,
        kinds.LEDGER,
        kinds.ROW,  # rows that were removed are rebuilt
    }
)
_FILES = frozenset({kinds.MISSING_FILE, kinds.FILE_SIZE, kinds.FILE_DIGEST, kinds.PERMISSIONS, kinds.LEDGER})
# The kinds of findings, at any level, for a state of a file without a reason.
_STATES = frozenset({kinds.MISSING_FILE, kinds.LEDGER})
_LEFTOVERS = frozenset({kinds.SUPERFLUOUS_FILE, kinds.TEMPORARY})

_OUT_OF_REACH = "the database does not let it be repaired: clone into an empty serverdir"
_NOBODY = "the primary was not asked: give --secretfile or --replica-keyfile"


def repair(serverdir: Serverdir, level: Level, settings: Settings, context: Context) -> Report:
    """Verify a standby, repair it, and verify it again.

    settings: with a secret, the primary is asked for files and entries.
    Raises TargetUnusable if we may not write to it, and the errors of asking the primary.
    """
    require_ours(serverdir)
    refuse_server(serverdir)
    modes = list(wrong_modes(serverdir))
    before = [finding for finding in modes if grant(serverdir, finding)]
    secret = level == Level.PRIMARY or settings.access.has_secret
    with ExitStack() as stack:
        store, source = stack.enter_context(opened(serverdir, before))
        session = Session(serverdir, store, source, settings, context)
        primary = stack.enter_context(session.primary(secret=secret))
        asks = secret and _answers(primary, session, must=level == Level.PRIMARY)
        report = Repair(session, primary, asks=asks).run(level)
        report.repairs += before
        report.repaired += len(before)
        if report.repaired and report.outcome == "ok":
            report.outcome = "repaired"
        record(store, report)
        return report


def _answers(primary: Primary, session: Session, *, must: bool) -> bool:
    """Return whether the primary answers.

    must: whether it is an error if it does not.
    Raises PrimaryUnreachable, PrimaryRefused or WrongHistory.
    """
    try:
        session.patience().call(lambda: primary.entry(0))
    except PrimaryUnreachable as err:
        if must:
            raise
        session.context.log.warning("the primary cannot be asked", error=str(err))
        return False
    except CorruptEntry:
        return True  # it answers, whatever it has there
    return True


class Repair:
    """One repair of an open standby whose lock we hold.

    asks: whether the primary is asked.
    """

    def __init__(self, session: Session, primary: Primary, *, asks: bool) -> None:
        self._session = session
        self._serverdir, self._store, self._source = session.serverdir, session.store, session.source
        self._files, self._context = session.files, session.context
        self._primary = primary
        self._asks = asks
        self._patience = session.patience()
        self._compare = partial(compare_with, primary, self._patience)
        self._users = PrimaryUsers(primary, self._patience) if asks else None

    def run(self, level: Level) -> Report:
        """Verify, repair, and verify again if there was anything to repair."""
        before = self._look(level)
        if level >= Level.FILES:
            # Including folders without files: the next file may need them.
            give_folders(self._serverdir)
        if not before.total:
            # Moves that an interrupted run committed, but did not do, are not findings.
            self._session.settle()
            return before
        if {kinds.DATABASE, kinds.SCHEMA} & set(before.counts):
            # First of all: data hidden by an index, or effects of a trigger, would disturb everything else.
            invalidrows.show(self._store)
            self._store.repair_structure()
            if kinds.SCHEMA in before.counts:
                # Without its tables not everything could be checked.
                self._store.restore_schema()
            self._source = judged_source(self._serverdir, self._store)
            after = self._look(level)
            if tables_missing(self._store):
                return both(before, after, {})
            before = joined(before, after)
        if {kinds.DATABASE, kinds.ROW} & set(before.counts):
            # Before anything else is written: hidden rows would disturb it. Removed rows are rebuilt from the
            # history.
            done = invalidrows.repair(self._store, clock.now())
            after = self._look(level)
            if not done:
                left = [one.subject for one in after.findings if one.kind == kinds.ROW]
                return both(before, after, dict.fromkeys(left, _OUT_OF_REACH))
            before = joined(before, after)
        with self._session.recorded("verify"):
            reasons = self._repair(before, level)
            after = self._look(level)
        return both(before, after, reasons)

    def _look(self, level: Level) -> Report:
        return look(
            self._subject,
            level,
            compare=self._compare if level == Level.PRIMARY else None,
            users=self._users,
        )

    def _subject(self) -> Subject:
        return subject_of(self._serverdir, self._store, self._source, self._context, alone=True)

    def _repair(self, report: Report, level: Level) -> dict[object, str | Hint]:
        """Repair the findings; return why something stays as it is, by serial or relpath."""
        found = set(report.counts)
        reasons: dict[object, str | Hint] = {}
        self._session.recover()
        if kinds.PENDING_MOVE in found:
            self._store.forget_false_drops()
        subject = self._subject()
        bringer = self._bringer()
        ask = self._entry if self._asks else None
        if found & _ROWS:
            compare = self._compare if self._asks and level < Level.PRIMARY else None
            reasons.update(repair_history(subject, report, ask, compare, bringer))
            reasons.update(bringer.lost)
        if kinds.PASSWORD in found and self._users is not None:
            repair_passwords(subject, report, self._users)
        if found & (_ROWS | {kinds.SOURCE}):
            # After the history: the records of its end must match the end that it has then.
            reasons.update(repair_source(subject, ask, clock.now()))
        if found & _LEFTOVERS and level >= Level.FULL:
            retain_leftovers(subject, self._files)
        if found & _STATES:
            reasons.update(repair_states(subject, bringer, self._files))
        if found & _FILES and level >= Level.FILES:
            reasons.update(repair_files(subject, bringer, self._files, digests=level >= Level.FULL))
        if kinds.LEDGER in found and level >= Level.FILES:
            forget_lost(subject)
        for path in temporary(subject):
            if path.is_dir() and not path.is_symlink():
                self._serverdir.quarantine(path)
                continue
            with local_errors(f"cannot remove {path}"), suppress(FileNotFoundError):
                path.unlink()
        reasons.update(self._repair_small_files(found))
        if kinds.SEQUENCE in found:
            self._store.restore_schema()
        return reasons

    def _bringer(self) -> Bringer:
        source: FileSource = self._primary if self._asks else NoSource(_NOBODY)
        local = local_files(self._serverdir, self._session.settings)
        fetcher = self._session.fetcher(source, local, place="all")
        return Bringer(
            self._session,
            fetcher,
            asks=self._asks,
            give=partial(give, owner_of(self._serverdir), self._serverdir.files),
        )

    def _entry(self, serial: int) -> ChangelogEntry | None:
        return self._patience.call(lambda: self._primary.entry(serial)[1])

    def _repair_small_files(self, found: set[str]) -> dict[object, str | Hint]:
        serverdir, source = self._serverdir, self._source
        if kinds.STATE_VERSION in found:
            serverdir.write_serverversion()
        if kinds.EVENT_SERIAL in found:
            serverdir.write_event_serial(audit.position(self._store).last)
        if kinds.IDENTITY in found and not self._asks and self._names_a_primary():
            # Either of the two may be damaged, and only the primary can tell.
            return {".nodeinfo": f"it or the database is wrong, and {_NOBODY}"}
        if kinds.IDENTITY in found:
            serverdir.write_nodeinfo(
                standby_nodeinfo(
                    source.uuid, source.primary_uuid, source.primary_url, before_6_13=self._before_6_13()
                )
            )

        return {}

    def _names_a_primary(self) -> bool:
        """Return whether `.nodeinfo` is that of a replica, of any standby."""
        with suppress(TargetUnusable):
            info = self._serverdir.nodeinfo() or {}
            primary = info.get("primary-uuid") or info.get("master-uuid")
            return info.get("role") == "replica" and all(map(_is_text, (info.get("uuid"), primary)))
        return False

    def _before_6_13(self) -> bool:
        if self._asks:
            return self._patience.call(self._primary.hello).before_6_13
        with suppress(TargetUnusable):
            return "master-uuid" in (self._serverdir.nodeinfo() or {})
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
