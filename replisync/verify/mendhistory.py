"""Mending what the database says: entries from the primary, keys and ledger from the entries.

What is wrong is found out first, in one reading of the history. Then the primary is asked for the entries
that are missing or damaged, and each is taken only where the entries around it are the primary's. A second
reading, with them in their places, says what keys and ledger must be. The files that this demands are
brought, and at last one transaction writes all rows that are not as they must be.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from replisync import clock
from replisync.changelog import EMPTY_ENTRY, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry
from replisync.keys import READ_KEYNAMES, Digest
from replisync.plan import WantedFile
from replisync.seed.rebase import Rewriter, rewritten
from replisync.store import audit
from replisync.store.mending import FileRow, Mending
from replisync.store.records import ABSENT, PRESENT, WANTED
from replisync.store.scratch import Scratch
from replisync.verify.findings import OTHER_ENTRY, Findings, Report
from replisync.verify.history import (
    History,
    latest_of,
    load_keys,
    load_ledger,
    read_entry,
    read_history,
)
from replisync.verify.mendfiles import Bringer
from replisync.verify.subject import Subject
from replisync.verify.theirs import Agreement, Ask

# A standby with more bad entries than this is no standby that could be mended.
_MOST = 10_000

# How far from a damaged entry its neighbours are looked for, and how many are compared on each side.
_LOOK_FAR = 64
_NEIGHBOURS = 2

# Nobody writes meanwhile, so no row is too new.
_EVER = 2**62

# Files that are brought for the ledger at a time.
_FILES = 500


@dataclass(slots=True)
class Healing:
    """What becomes of the entries that are not right.

    odd: those that can be read and only name other back serials.
    lost: those that are missing or cannot be read.
    replaced: those whose places the primary's take; these are kept in a temporary database.
    adopted: whether entries behind our last commit were found to be the primary's.
    reasons: why others stay as they are, by serial.
    """

    odd: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    adopted: bool = False
    replaced: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)


def mend_history(subject: Subject, report: Report, ask: Ask | None, bringer: Bringer) -> dict[int, str]:
    """Set the history, its keys and the ledger right; return why entries stay wrong, by serial.

    report: what was found.
    ask: asks the primary for an entry; None where it cannot be asked.
    """
    with Scratch() as kept:
        healing = _find_entries(subject, report, ask, kept)
        position = audit.position(subject.store)
        if position.last > position.committed and not healing.adopted:
            return healing.reasons
        with Scratch() as scratch:
            history = _read_again(subject, scratch, kept, healing)
            load_keys(subject, scratch)
            load_ledger(subject, scratch)
            _bring_files(subject, scratch, history, bringer)
            subject.store.mend(_mending(scratch, kept, history, bringer, adopt=healing.adopted), clock.now())
    return healing.reasons


# Which entries are to be replaced, and by what.


def _find_entries(subject: Subject, report: Report, ask: Ask | None, kept: Scratch) -> Healing:
    with Scratch() as scratch:
        quiet = replace(subject, findings=Findings(lambda: None))
        history = read_history(quiet, scratch)
    committed = audit.position(subject.store).committed
    others = {one.serial for one in report.findings if one.kind == OTHER_ENTRY and one.serial is not None}
    lost = history.unread | set(range(history.upto + 1, committed + 1))
    bad = lost | history.odd | others
    healing = Healing(odd=history.odd - lost, lost=lost)
    if len(bad) > _MOST:
        healing.reasons = dict.fromkeys(bad, "too many entries are wrong: clone anew into an empty serverdir")
        return healing
    agreement = Agreement(subject.store, subject.source)
    for serial in sorted(bad):
        subject.context.stop.check()
        reason = _find_entry(subject, agreement, ask, kept, serial, bad, decodes=serial not in lost)
        if reason is None:
            healing.replaced.add(serial)
        elif reason:
            healing.reasons[serial] = reason
    if history.upto > committed:
        _adopt(subject, ask, healing, committed, history.upto)
    return healing


def _adopt(subject: Subject, ask: Ask | None, healing: Healing, committed: int, last: int) -> None:
    """Look whether what somebody else wrote behind our last commit is what the primary has there."""
    agreement = Agreement(subject.store, subject.source)
    for serial in range(committed + 1, min(last, committed + _MOST) + 1):
        ours = subject.store.entry_data(serial)
        theirs = ask(serial) if ask is not None and ours is not None else None
        if theirs is None or ours is None or not agreement.same(serial, ours, theirs):
            healing.reasons[committed] = (
                "let the primary be asked whether it is its entry: --secretfile or --replica-keyfile"
                if ask is None
                else "the primary has another entry there: find out which devpi-server wrote to the standby, "
                "and clone anew into an empty serverdir"
            )
            return
        if subject.source.based_on >= 0:
            # What a devpi-server stored has the primary's back serials.
            healing.reasons[committed] = "a devpi-server wrote to it: clone anew into an empty serverdir"
            return
    healing.adopted = last <= committed + _MOST


def _find_entry(
    subject: Subject,
    agreement: Agreement,
    ask: Ask | None,
    kept: Scratch,
    serial: int,
    bad: set[int],
    *,
    decodes: bool,
) -> str | None:
    """Keep the primary's entry; return why that cannot be, "" where ours is the primary's; None if kept."""
    if serial < agreement.first:
        return "it is older than the export that the standby began with: clone anew into an empty serverdir"
    if ask is None:
        return "let the primary be asked: --secretfile or --replica-keyfile"
    try:
        theirs = ask(serial)
    except CorruptEntry as err:
        return f"the primary's own entry cannot be used: {err.why}"
    if theirs is None:
        return "the primary has no such entry"
    if decodes and agreement.first == 0 and theirs.data == subject.store.entry_data(serial):
        return ""
    below = list(_neighbours(subject, agreement, ask, range(serial - 1, serial - _LOOK_FAR, -1), bad))
    above = list(_neighbours(subject, agreement, ask, range(serial + 1, serial + _LOOK_FAR), bad))
    if not all(chain(below, above)) or not (below or above or serial == 0):
        return "the entries around it are not the primary's: see `replisync catchup`, which names the fork"
    if decodes and not above and not _says_the_same(subject, serial, theirs):
        # That an entry was altered, or the primary rewound to before it, looks the same from here.
        return f"go back with `replisync rewind --to-serial {serial - 1}`, then on with `replisync catchup`"
    kept.put_entry(serial, theirs.data)
    return None


def _says_the_same(subject: Subject, serial: int, theirs: ChangelogEntry) -> bool:
    """Tell whether our entry says what the primary's says, but for back serials."""
    try:
        ours = parse_stored(serial, subject.store.entry_data(serial) or b"").changes
        full = parse_stored(serial, theirs.data).changes
    except CorruptEntry:
        return False
    return {path: (c.keyname, c.value) for path, c in ours.items()} == {
        path: (c.keyname, c.value) for path, c in full.items()
    }


def _neighbours(
    subject: Subject, agreement: Agreement, ask: Ask, serials: Iterable[int], bad: set[int]
) -> Iterator[bool]:
    """Yield whether good entries of ours, the next ones that change something, are the primary's."""
    found = 0
    for serial in serials:
        if serial < agreement.first or serial in bad:
            continue
        ours = subject.store.entry_data(serial)
        if ours is None or ours == EMPTY_ENTRY:
            continue
        theirs = ask(serial)
        # By itself an entry of a standby that began with an export tells less, and enough.
        fresh = Agreement(subject.store, subject.source)
        yield theirs is not None and fresh.same(serial, ours, theirs)
        found += 1
        if found == _NEIGHBOURS:
            return


# The history as it will be.


def _read_again(subject: Subject, scratch: Scratch, kept: Scratch, healing: Healing) -> History:
    """Read the history with the kept entries in their places; what is kept becomes what is to be stored."""
    position = audit.position(subject.store)
    history = History(max(position.last, *healing.replaced, -1))
    subject.context.progress.stage("history", history.upto + 1, "serials")
    rewrite = _Rewrite(subject, scratch, kept)
    due = 0
    while due <= history.upto:
        subject.context.stop.check()
        page = dict(audit.entries(subject.store, due, history.upto, 500))
        end = max(page, default=history.upto)
        for serial in range(due, end + 1):
            entry = _entry(serial, page.get(serial), rewrite, healing)
            if entry is None:
                history.unread.add(serial)
            else:
                scratch.note(latest_of(entry))
        subject.context.progress.advance(end + 1 - due)
        due = end + 1
    history.unread |= healing.lost - healing.replaced
    return history


def _entry(serial: int, data: bytes | None, rewrite: "_Rewrite", healing: Healing) -> ChangelogEntry | None:
    """Return the entry that is to be at a serial; None where there will be none that can be read."""
    if serial in healing.replaced:
        return rewrite.theirs(serial)
    try:
        entry = read_entry(serial, data or b"")
    except CorruptEntry:
        return None
    if serial in healing.odd:
        return rewrite.ours(entry, healing)
    return entry


class _Rewrite:
    """Makes entries what they are in a standby that began with an export; elsewhere they stay as they are."""

    def __init__(self, subject: Subject, scratch: Scratch, kept: Scratch) -> None:
        self._store = subject.store
        self._based_on = subject.source.based_on
        self._scratch = scratch
        self._kept = kept

    def theirs(self, serial: int) -> ChangelogEntry:
        """Return a kept entry of the primary's, as it is to be stored."""
        data = self._kept.kept_entry(serial) or b""
        entry = read_entry(serial, data)
        if self._based_on >= 0:
            [[entry]] = Rewriter(self)([[entry]])
            self._kept.put_entry(serial, entry.data)
        return entry

    def ours(self, entry: ChangelogEntry, healing: Healing) -> ChangelogEntry:
        """Return an entry of ours with right back serials, where it is ours to write them."""
        if self._based_on < 0:
            return entry
        changes = parse_stored(entry.serial, entry.data).changes
        known = self._scratch.serials_of(changes)
        chained = {path: c._replace(back_serial=known.get(path, -1)) for path, c in changes.items()}
        new = rewritten(entry.serial, chained)
        self._kept.put_entry(entry.serial, new.data)
        healing.reasons.pop(entry.serial, None)
        return read_entry(entry.serial, new.data)

    # What a Rewriter asks for: what was known before the entry.

    def last_serial(self) -> int:
        """Return -1: nothing is to be forgotten."""
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


# What is to be written.


def _bring_files(subject: Subject, scratch: Scratch, history: History, bringer: Bringer) -> None:
    """Bring the files that the ledger lacks, durably, before it names them."""
    wanted: list[WantedFile] = []
    for one in scratch.file_differences(_EVER):
        if one.digest is not None and one.serial is not None and one.found_serial not in history.unread:
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
        size = done.present.get(file.relpath)
        state = PRESENT if size is not None else ABSENT if file.relpath in done.absent else WANTED
        rows.append((file.relpath, file.serial, str(file.digest or ""), state, size))
    return rows


def _mending(scratch: Scratch, kept: Scratch, history: History, bringer: Bringer, *, adopt: bool) -> Mending:
    """Return what is to be written; it is read from the temporary databases while it is."""
    keys = (
        (one.key, one.keyname or "", one.serial)
        for one in scratch.key_differences(_EVER)
        if one.serial is not None and one.found_serial not in history.unread
    )
    gone_keys = (
        one.key
        for one in scratch.key_differences(_EVER)
        if one.serial is None and one.found_serial not in history.unread
    )
    gone_files = (
        one.relpath
        for one in scratch.file_differences(_EVER)
        if one.digest is None and one.found_serial not in history.unread
    )
    return Mending(kept.kept_entries(), keys, gone_keys, scratch.arrived(), gone_files, bringer.faults, adopt)
