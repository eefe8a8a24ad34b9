"""Repair of files: fetch missing or damaged ones again, retain superfluous ones."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from replisync.changelog import Fault, FileStore, WantedFile
from replisync.devpi import Digest
from replisync.errors import CorruptEntry
from replisync.replication import Fetched, Fetcher, Judgement, Refused, judge, not_skipped, settle
from replisync.session import Session
from replisync.standby import LedgerFile, audit
from replisync.system import clock
from replisync.verify.checks.allfiles import look_at, looked_at
from replisync.verify.checks.present import is_misstated, problem_of
from replisync.verify.checks.superfluous import names_nobody_has
from replisync.verify.findings import LEDGER, PERMISSIONS
from replisync.verify.owner import give
from replisync.verify.subject import Subject

# The number of files that are fetched, or retained, before that is recorded.
_SOME = 500

# The retry time of a file that could not be fetched.
_AGAIN_SECONDS = 3600.0


@dataclass(slots=True)
class Brought:
    """The outcomes of files: sizes of present ones, absent ones, and refused ones."""

    present: dict[str, int] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: list[Fault] = field(default_factory=list)


class Bringer:
    """Fetches files from this machine or from the primary.

    asks: whether the primary is asked.
    give: lets the owner of the serverdir use a file.
    faults: all that could not be fetched.
    lost: the reasons of those of them that are new.
    """

    def __init__(
        self,
        session: Session,
        fetcher: Fetcher,
        *,
        asks: bool,
        give: Callable[[str], None],
    ) -> None:
        self._session = session
        self._fetcher = fetcher
        self._give = give
        self.asks = asks
        self.faults: list[Fault] = []
        self.lost: dict[str, str] = {}

    def bring(self, wanted: list[WantedFile]) -> Brought:
        """Fetch files into their places, durably."""
        done = Brought()
        refused: list[Refused] = []
        for outcome in self._fetcher.fetch(wanted):
            if isinstance(outcome, Fetched):
                done.present[outcome.file.relpath] = outcome.size
                # Including one that was always right, with only its size unknown.
                self._give(outcome.file.relpath)
                self._count(outcome)
            else:
                refused.append(outcome)
        verdict = Judgement()
        if self.asks:
            # With a damaged entry, the type of a file's index is still unknown.
            with suppress(CorruptEntry):
                verdict = judge(self._session.store, refused)
        done.absent = dict(verdict.absent)
        kinds = {fault.relpath: fault.kind for fault in verdict.faults}
        for one in refused:
            if one.file.relpath not in done.absent:
                kind = kinds.get(one.file.relpath, "skipped")
                again = clock.later(_AGAIN_SECONDS)
                done.refused.append(Fault(one.file.relpath, one.file.serial, kind, one.reason, 1, again))
        self.faults += done.refused
        known = self._session.store.faults_of([fault.relpath for fault in done.refused])
        new = (fault for fault in done.refused if fault.relpath not in known)
        self.lost |= {fault.relpath: fault.reason for fault in new}
        return done

    def not_skipped(self, wanted: list[WantedFile]) -> list[WantedFile]:
        """Return those that are not of a skipped index."""
        # With a damaged entry, the type of a file's index is unknown.
        with suppress(CorruptEntry):
            return not_skipped(self._session.store, self._session.settings.skip_indexes, wanted)
        return wanted

    def _count(self, outcome: Fetched) -> None:
        if outcome.origin == "primary":
            self._session.tally.files += 1
            self._session.tally.bytes += outcome.size
        elif outcome.origin == "local":
            self._session.tally.local += 1


def repair_files(subject: Subject, bringer: Bringer, files: FileStore, *, digests: bool) -> dict[str, str]:
    """Fetch missing or damaged files again; return why others could not be fetched, by relpath.

    files: the files of the target: damaged files that cannot be fetched are retained, so that they are not
        served.
    digests: whether to check contents.
    """
    reasons: dict[str, str] = {}
    some: list[LedgerFile] = []
    looked = looked_at(subject, digests=digests)
    for file, seen in (pair for chunk, found in looked for pair in zip(chunk, found.files, strict=True)):
        problem = problem_of(file, seen, subject.owner)
        if problem is None:
            continue
        if is_misstated(seen) and seen.size == file.size:
            files.correct_size(file.relpath)
            problem = problem_of(file, seen._replace(said=seen.size), subject.owner)
            if problem is None:
                continue
        if problem == LEDGER and _is_right(subject, file):
            subject.store.files_arrived({file.relpath: seen.size or 0})
            continue
        if problem == PERMISSIONS:
            give(subject.owner, subject.serverdir.files, file.relpath)
            continue
        clear_way(subject, file.relpath, links=bringer.asks)
        some.append(file)
        if len(some) >= _SOME:
            _bring(subject, bringer, files, some, reasons)
            some = []
    if some:
        _bring(subject, bringer, files, some, reasons)
    return reasons


def repair_states(subject: Subject, bringer: Bringer, files: FileStore) -> dict[str, str]:
    """Fetch the files that are recorded as missing without a reason; return as `mend_files` does.

    Those of skipped indexes get that as their reason.
    """
    reasons: dict[str, str] = {}
    after = ""
    while page := audit.unexplained(subject.store, after, _SOME):
        after = page[-1].relpath
        asked = {file.relpath for file in bringer.not_skipped([_wanted(one) for one in page])}
        left_out = [one.relpath for one in page if one.relpath not in asked]
        if left_out:
            subject.store.leave_files(left_out)
        some = [one for one in page if one.relpath in asked]
        for one in some:
            clear_way(subject, one.relpath)
        _bring(subject, bringer, files, some, reasons)
    return reasons


def _wanted(file: LedgerFile) -> WantedFile:
    return WantedFile(file.relpath, file.serial, Digest.parse(file.digest))


def _bring(
    subject: Subject,
    bringer: Bringer,
    files: FileStore,
    some: list[LedgerFile],
    reasons: dict[str, str],
) -> None:
    done = bringer.bring([_wanted(one) for one in some])
    subject.store.files_arrived(done.present, done.absent)
    if bringer.asks:
        # It is missing, and a promotion must know; nor must a server serve what is in its place.
        subject.store.lose_files(done.refused)
        settle(subject.store, files, retain=True)
    reasons |= {fault.relpath: fault.reason for fault in done.refused}
    subject.context.stop.check()


def _is_right(subject: Subject, file: LedgerFile) -> bool:
    """Return whether a file's content has the digest that it must have."""
    digest = Digest.parse(file.digest)
    if digest is None:
        return False
    [seen] = look_at(subject, [file], digests=True).files
    return seen.digest == digest.hexdigest


def clear_way(subject: Subject, relpath: str, *, links: bool = False) -> None:
    """Quarantine a folder that is in a file's place, or a file in the place of a folder above it.

    Unless files that must stay are in it, or it is such a file itself.
    links: whether to quarantine also a link in a file's place, which may lead anywhere.
    """
    if subject.store.holds_files:
        return
    path = subject.serverdir.files
    *folders, name = relpath.split("/")
    for part in folders:
        path = path / part
        if path.is_file() and not path.is_symlink():
            if audit.file_now(subject.store, str(path.relative_to(subject.serverdir.files)))[0] is None:
                subject.serverdir.quarantine(path)
            return
    path = path / name
    linked = path.is_symlink()
    if not (links if linked else path.is_dir()) or audit.has_files_below(subject.store, relpath):
        return
    if linked:
        subject.serverdir.quarantine(path)
        return
    try:
        path.rmdir()
    except OSError:
        subject.serverdir.quarantine(path)


# Superfluous files.


def retain_leftovers(subject: Subject, files: FileStore) -> None:
    """Retain the files that no key names."""
    some: list[str] = []
    for relpath in names_nobody_has(subject):
        if not _is_text(relpath):
            # No row can have such a name.
            subject.serverdir.quarantine(subject.serverdir.files / relpath)
            continue
        some.append(relpath)
        if len(some) >= _SOME:
            _retain(subject, files, some)
            some = []
    if some:
        _retain(subject, files, some)


def _is_text(relpath: str) -> bool:
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return False
    return True


def _retain(subject: Subject, files: FileStore, relpaths: list[str]) -> None:
    # Recorded first, so that the next run finishes it after a crash.
    subject.store.put_leftovers(relpaths)
    settle(subject.store, files, retain=True)
    subject.context.stop.check()
