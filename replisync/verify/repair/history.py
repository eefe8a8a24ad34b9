"""Repair of the database: entries from the primary, keys and ledger from the entries.

First, one reading of the history finds what is wrong. Then the primary is asked for the entries that are
missing, damaged or altered, and each is accepted only if it is the one that was committed, or if its
neighbours are the primary's. A second reading, with these in their places, computes keys and ledger. The
files that this demands are fetched, and finally one transaction writes all rows that differ.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from replisync.changelog import (
    ABSENT,
    PRESENT,
    UNASKED,
    WANTED,
    FileRow,
    Rewriter,
    WantedFile,
    rewritten,
    witness,
)
from replisync.devpi import READ_KEYNAMES, ChangelogEntry, Digest, parse_stored
from replisync.errors import CorruptEntry, Hint
from replisync.standby import Repairs, audit
from replisync.system import clock
from replisync.verify.checks.entries import read_entry
from replisync.verify.checks.history import History, latest_of, load_keys, load_ledger
from replisync.verify.checks.primary import Ask
from replisync.verify.findings import LISTED, Report
from replisync.verify.repair.entries import Compare, EntryRepair, contradicted, find_entries
from replisync.verify.repair.files import Bringer, clear_way
from replisync.verify.scratch import EVER, FileDifference, KeyDifference, Scratch
from replisync.verify.subject import Subject

# The number of files that are fetched for the ledger at a time.
_FILES = 500


def repair_history(
    subject: Subject, report: Report, ask: Ask | None, compare: Compare | None, bringer: Bringer
) -> dict[object, str | Hint]:
    """Repair history, keys and ledger; return why something stays wrong, by serial or subject.

    report, ask, compare: see `find_entries`.
    """
    with Scratch(subject.store.holds_key) as kept:
        repair = find_entries(subject, report, ask, compare, kept)
        reasons: dict[object, str | Hint] = {serial: why for serial, why in repair.reasons.items()}  # noqa: C416
        position = audit.position(subject.store)
        if repair.hopeless or (position.last > position.committed and not repair.adopted):
            return reasons
        with Scratch(subject.store.holds_key) as scratch:
            history = _read_again(subject, scratch, kept, repair)
            load_keys(subject, scratch)
            load_ledger(subject, scratch)
            wrong = Wrong(scratch, history, contradicted(subject, scratch, repair))
            _bring_files(subject, scratch, wrong, bringer)
            repairs = _repairs(scratch, kept, wrong, bringer, repair)
            repairs.seed = subject.source.based_on
            subject.store.repair(repairs, clock.now())
            return reasons | wrong.left


# The history after the repair.


def _read_again(subject: Subject, scratch: Scratch, kept: Scratch, repair: EntryRepair) -> History:
    """Read the history with the replacements in their places; then turn these into what is to be stored."""
    position = audit.position(subject.store)
    history = History(max(position.last, *repair.replaced, -1))
    subject.context.progress.stage("history", history.upto + 1, "serials")
    rewrite = _Rewrite(subject, scratch, kept, repair)
    due = 0
    while due <= history.upto:
        subject.context.stop.check()
        page = dict(audit.entries(subject.store, due, history.upto, 500))
        end = max(page, default=history.upto)
        for serial in range(due, end + 1):
            entry = _entry(serial, page.get(serial), rewrite)
            if entry is None:
                history.unread.add(serial)
            else:
                scratch.note(latest_of(entry))
        subject.context.progress.advance(end + 1 - due)
        due = end + 1
    return history


def _entry(serial: int, data: bytes | None, rewrite: "_Rewrite") -> ChangelogEntry | None:
    """Return the entry that is to be at a serial; None if there is no credible one."""
    if serial in rewrite.repair.replaced:
        return rewrite.theirs(serial)
    try:
        return rewrite.ours(read_entry(serial, data or b""))
    except CorruptEntry:
        return None


class _Rewrite:
    """Rewrites entries for a standby that began with an export; in others they stay as they are."""

    def __init__(self, subject: Subject, scratch: Scratch, kept: Scratch, repair: EntryRepair) -> None:
        self.repair = repair
        self._store = subject.store
        self._based_on = subject.source.based_on
        self._scratch = scratch
        self._kept = kept

    def theirs(self, serial: int) -> ChangelogEntry:
        """Return a replacement from the primary, as it is to be stored."""
        data = self._kept.kept_entry(serial) or b""
        entry = read_entry(serial, data)
        if self._based_on >= 0:
            [[entry]] = Rewriter(self)([[entry]])
            self._kept.put_entry(serial, entry.data)
        self.repair.witnesses[serial] = witness(entry.data)
        return entry

    def ours(self, entry: ChangelogEntry) -> ChangelogEntry | None:
        """Return an entry of ours, with right back serials if they are ours.

        None if it is altered: its former content is unknown.
        """
        history = self.repair.history
        proof = None if entry.serial in self.repair.witnesses else history.altered.get(entry.serial)
        if proof is None and entry.serial not in history.odd:
            return entry
        if self._based_on < 0:
            return None if proof is not None else entry
        changes = parse_stored(entry.serial, entry.data).changes
        known = self._scratch.serials_of(changes)
        chained = {path: c._replace(back_serial=known.get(path, -1)) for path, c in changes.items()}
        new = rewritten(entry.serial, chained)
        if proof is not None and witness(new.data) != proof:
            return None
        self._kept.put_entry(entry.serial, new.data)
        self.repair.reasons.pop(entry.serial, None)
        return read_entry(entry.serial, new.data)

    # Queries of a Rewriter: the state before the entry.

    def last_serial(self) -> int:
        """Return -1: nothing is to be dropped."""
        return -1

    def serials_of(self, relpaths: Iterable[str]) -> dict[str, int]:
        """Return the last serials of keys."""
        return self._scratch.serials_of(relpaths)

    def value(self, relpath: str) -> Any:
        """Return the latest value of a key."""
        found = self._scratch.latest(relpath)
        if found is None:
            return None
        data = self._kept.kept_entry(found.serial) or self._store.entry_data(found.serial) or b""
        change = parse_stored(found.serial, data, kinds=READ_KEYNAMES).changes.get(relpath)
        return None if change is None else change.value


# The rows to write.


class Wrong:
    """The rows to repair: all that differ, as far as known.

    disputed: the entries that rows contradict and nothing proves, and why; see `contradicted`.
    left: why others stay as they are, by key or relpath; a limited number of them.
    """

    def __init__(self, scratch: Scratch, history: History, disputed: Mapping[int, str | Hint]) -> None:
        self._scratch = scratch
        self._history = history
        self._disputed = disputed
        self.left: dict[object, str | Hint] = {}

    def key_rows(self) -> Iterator[KeyDifference]:
        """Yield the keys."""
        for one in self._scratch.key_differences(EVER):
            if self._is_known(one, one.key):
                yield one

    def file_rows(self) -> Iterator[FileDifference]:
        """Yield the files of the ledger."""
        for one in self._scratch.file_differences(EVER):
            if self._is_known(one, one.relpath):
                yield one

    def _is_known(self, one: KeyDifference | FileDifference, name: str) -> bool:
        serial = next((one for one in (one.found_serial, one.serial) if one in self._disputed), None)
        if serial is not None and len(self.left) < LISTED:
            why = self._disputed[serial]
            self.left[name] = f"it and the entry at serial {serial} do not match: {why}"
        # The row may contain exactly the content of an entry that is not believed.
        return serial is None and one.found_serial not in self._history.unread


def _bring_files(subject: Subject, scratch: Scratch, wrong: Wrong, bringer: Bringer) -> None:
    """Fetch the files that the ledger lacks, durably, before it names them."""
    wanted: list[WantedFile] = []
    for one in wrong.file_rows():
        if one.digest is not None and one.serial is not None:
            clear_way(subject, one.relpath)
            wanted.append(WantedFile(one.relpath, one.serial, Digest.parse(one.digest)))
        if len(wanted) >= _FILES:
            scratch.note_arrived(_brought(bringer, wanted))
            wanted = []
        subject.context.stop.check()
    if wanted:
        scratch.note_arrived(_brought(bringer, wanted))


def _brought(bringer: Bringer, wanted: list[WantedFile]) -> list[FileRow]:
    done = bringer.bring(wanted)
    rows: list[FileRow] = []
    for file in wanted:
        size, reason = done.present.get(file.relpath), done.absent.get(file.relpath)
        state = PRESENT if size is not None else WANTED if reason is None else ABSENT
        why = None if size is not None else reason or UNASKED
        rows.append((file.relpath, file.serial, str(file.digest or ""), state, size, why))
    return rows


def _repairs(scratch: Scratch, kept: Scratch, wrong: Wrong, bringer: Bringer, repair: EntryRepair) -> Repairs:
    """Return the rows to write; they are read from the temporary databases while being written."""
    keys = ((one.key, one.keyname or "", one.serial) for one in wrong.key_rows() if one.serial is not None)
    gone_keys = (one.key for one in wrong.key_rows() if one.serial is None)
    gone_files = (one.relpath for one in wrong.file_rows() if one.digest is None)
    return Repairs(
        kept.kept_entries(),
        keys,
        gone_keys,
        scratch.arrived(),
        gone_files,
        bringer.faults,
        repair.adopted,
        repair.end,
        witnesses=repair.witnesses,
    )
