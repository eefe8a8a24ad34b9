"""Mending files: those that are missing or damaged are brought again, those that nobody names put aside."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from replisync.changelog.plan import WantedFile
from replisync.changelog.ports import FileStore
from replisync.changelog.records import Fault
from replisync.devpi.keys import Digest
from replisync.errors import CorruptEntry
from replisync.replication.fetch import Fetched, Fetcher, Refused
from replisync.replication.refusals import Judgement, judge
from replisync.replication.settle import settle
from replisync.replication.wanted import not_skipped
from replisync.session.session import Session
from replisync.standby.database import audit
from replisync.standby.database.audit import LedgerFile
from replisync.system import clock
from replisync.verify.checks.allfiles import look_at, looked_at
from replisync.verify.checks.present import is_misstated, problem_of
from replisync.verify.checks.superfluous import names_nobody_has
from replisync.verify.findings import LEDGER, PERMISSIONS
from replisync.verify.owner import give
from replisync.verify.subject import Subject

# Files that are brought, or put aside, before that is remembered.
_SOME = 500

# When a file that could not be had is asked for again.
_AGAIN_SECONDS = 3600.0


@dataclass(slots=True)
class Brought:
    """What became of files: sizes of those that are here now, those that nobody has, and those refused."""

    present: dict[str, int] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: list[Fault] = field(default_factory=list)


class Bringer:
    """Brings files from this machine or from the primary.

    asks: whether the primary is asked.
    give: lets the owner of the serverdir use a file.
    faults: all that could not be had.
    lost: why those of them could not be had of which that was not known.
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
        """Bring files into their places, durably."""
        done = Brought()
        refused: list[Refused] = []
        for outcome in self._fetcher.fetch(wanted):
            if isinstance(outcome, Fetched):
                done.present[outcome.file.relpath] = outcome.size
                # Also one that was right all the time, and only its size was not known.
                self._give(outcome.file.relpath)
                self._count(outcome)
            else:
                refused.append(outcome)
        verdict = Judgement()
        if self.asks:
            # Where an entry is damaged it cannot be told yet what kind of index a file is of.
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
        """Return those that are not of an index whose files are left out."""
        # Where an entry is damaged it cannot be told what kind of index a file is of.
        with suppress(CorruptEntry):
            return not_skipped(self._session.store, self._session.settings.skip_indexes, wanted)
        return wanted

    def _count(self, outcome: Fetched) -> None:
        if outcome.origin == "primary":
            self._session.tally.files += 1
            self._session.tally.bytes += outcome.size
        elif outcome.origin == "local":
            self._session.tally.local += 1


def mend_files(subject: Subject, bringer: Bringer, files: FileStore, *, digests: bool) -> dict[str, str]:
    """Bring the files again that are missing or damaged; return why others could not be had, by relpath.

    files: where those are retained that are damaged and cannot be had: nobody must be served them.
    digests: whether their contents are looked at.
    """
    reasons: dict[str, str] = {}
    some: list[LedgerFile] = []
    looked = looked_at(subject, digests=digests)
    for file, seen in (pair for chunk, found in looked for pair in zip(chunk, found.files, strict=True)):
        problem = problem_of(file, seen, subject.owner)
        if problem is None:
            continue
        if is_misstated(seen) and seen.size == file.size:
            files.mend_size(file.relpath)
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


def mend_states(subject: Subject, bringer: Bringer, files: FileStore) -> dict[str, str]:
    """Bring the files that are said not to be here without a reason; return as `mend_files` does.

    Those of indexes whose files are to be left out get that as their reason.
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
        # It is not here, and a promotion must not believe that it is; nor must a server serve what is.
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
    """Set aside a folder that is in a file's place, or what is in the place of a folder that it is in.

    Not where files that must be here are in it, nor a file that must be here itself.
    links: whether a link in a file's place, which may lead anywhere, is set aside too.
    """
    if subject.storage_is_database():
        return
    path = subject.serverdir.files
    *folders, name = relpath.split("/")
    for part in folders:
        path = path / part
        if path.is_file() and not path.is_symlink():
            if audit.file_now(subject.store, str(path.relative_to(subject.serverdir.files)))[0] is None:
                subject.serverdir.set_aside(path)
            return
    path = path / name
    linked = path.is_symlink()
    if not (links if linked else path.is_dir()) or audit.has_files_below(subject.store, relpath):
        return
    if linked:
        subject.serverdir.set_aside(path)
        return
    try:
        path.rmdir()
    except OSError:
        subject.serverdir.set_aside(path)


# What no key names.


def put_aside_leftovers(subject: Subject, files: FileStore) -> None:
    """Move the files that no key names to the retained folder."""
    some: list[str] = []
    for relpath in names_nobody_has(subject):
        if not _is_text(relpath):
            # No row can have such a name.
            subject.serverdir.set_aside(subject.serverdir.files / relpath)
            continue
        some.append(relpath)
        if len(some) >= _SOME:
            _put_aside(subject, files, some)
            some = []
    if some:
        _put_aside(subject, files, some)


def _is_text(relpath: str) -> bool:
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return False
    return True


def _put_aside(subject: Subject, files: FileStore, relpaths: list[str]) -> None:
    # Remembered first, so that whoever comes after a crash goes on with it.
    subject.store.put_leftovers(relpaths)
    settle(subject.store, files, retain=True)
    subject.context.stop.check()
