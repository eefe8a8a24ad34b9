"""The whole history: every entry decodes and leads to the previous one, and keys and ledger match it.

The history is read in order, page by page; its content for each key goes into a temporary database and is
compared there. An entry that cannot be read, or was altered, hides its content: entries that lead to it are
not judged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from replisync.changelog import witness
from replisync.devpi import EMPTY_ENTRY, ChangelogEntry
from replisync.errors import CorruptEntry
from replisync.standby import audit
from replisync.verify.checks.chain import wrong_back_serial
from replisync.verify.checks.entries import Read, changes_of, read_all, read_entry
from replisync.verify.checks.quick import missing_entry
from replisync.verify.findings import DAMAGED_ENTRY, KEY, LEDGER, OTHER_ENTRY, Finding
from replisync.verify.scratch import FileDifference, KeyDifference, Latest, Scratch
from replisync.verify.subject import Subject

# The number of entries, and rows, to read at a time.
_ENTRIES = 500
_ROWS = 5000

# More missing entries in a row than this are not missing: later ones are foreign, or a serial is damaged.
_CHASM = 100_000


@dataclass(slots=True)
class History:
    """The result of reading a history.

    upto: its last serial.
    unread: the serials of entries that are missing, unreadable, or altered.
    altered: those of them that are readable, but do not match their witnesses; with these.
    odd: the serials of entries without a witness that name wrong back serials.
    unproved: the number of readable entries without a witness.
    """

    upto: int
    unread: set[int] = field(default_factory=set)
    altered: dict[int, bytes] = field(default_factory=dict)
    odd: set[int] = field(default_factory=set)
    unproved: int = 0


@dataclass(frozen=True, slots=True)
class _Page:
    """A run of entries.

    due: the expected serial of the first one.
    end: the serial after the last one, or after the history if none remains.
    """

    due: int
    end: int
    entries: list[tuple[int, bytes]]

    @property
    def size(self) -> int:
        """The total size in bytes."""
        return sum(len(data) for _, data in self.entries)


def latest_of(entry: ChangelogEntry) -> list[Latest]:
    """Return the content of an entry for each of its keys."""
    return [Latest(key, keyname, entry.serial, file) for key, keyname, _, file in changes_of(entry)]


def read_history(subject: Subject, scratch: Scratch) -> History:
    """Read all entries, and check that each leads to the previous one."""
    history = History(audit.position(subject.store).last)
    subject.context.progress.stage("history", history.upto + 1, "serials")
    for page in _pages(subject, history):
        subject.context.stop.check()
        _take(subject, scratch, history, page, read_all(page.entries))
        subject.context.progress.advance(page.end - page.due, page.size)
    return history


def _pages(subject: Subject, history: History) -> Iterator[_Page]:
    """Yield all entries while they are consecutive; the history ends where too many are missing."""
    due = 0
    while due <= history.upto:
        before = due - 1
        page = audit.entries(subject.store, due, history.upto, _ENTRIES)
        for number, (serial, _) in enumerate(page):
            if serial - before > _CHASM:
                history.upto = before
                subject.findings.suspect(*missing_entry(subject, before + 1, serial - 1))
                page = page[:number]
                break
            before = serial
        end = page[-1][0] + 1 if page else history.upto + 1
        yield _Page(due, end, page)
        due = end


def _take(subject: Subject, scratch: Scratch, history: History, page: _Page, found: list[Read]) -> None:
    """Check that entries are consecutive, and record their content."""
    due = page.due
    proofs = audit.witnesses(subject.store, page.due, page.end - 1)
    for (serial, data), (_, why, changes) in zip(page.entries, found, strict=True):
        _miss(subject, history, due, serial)
        due = serial + 1
        subject.checked["entries"] += 1
        subject.checked["witnesses"] += serial in proofs
        problem = _problem(serial, data, why, proofs.get(serial))
        if problem is not None:
            history.unread.add(serial)
            subject.findings.suspect(problem, partial(_entry_again, subject, serial))
        if why is None and serial not in proofs:
            history.unproved += 1
        elif why is None and problem is not None:
            history.altered[serial] = proofs[serial]
            changes.clear()
    _miss(subject, history, due, page.end)
    known = scratch.serials_of({change[0] for _, _, changes in found for change in changes})
    for serial, _, changes in found:
        subject.checked["changes"] += len(changes)
        for key, _, named, _ in changes:
            before = known.get(key, -1)
            if named != before and not _explained(subject, history, named, before):
                # If its witness is right, the primary's history itself is damaged.
                history.odd |= {serial} - proofs.keys()
                finding = wrong_back_serial(key, serial, before, named)
                subject.findings.suspect(finding, partial(_back_serial_again, subject, key, serial, before))
            known[key] = serial
    scratch.note(
        (key, keyname, serial, file) for serial, _, changes in found for key, keyname, _, file in changes
    )


def _miss(subject: Subject, history: History, first: int, end: int) -> None:
    for serial in range(first, end):
        history.unread.add(serial)
        subject.findings.suspect(*missing_entry(subject, serial))


def _problem(serial: int, data: bytes, why: str | None, proof: bytes | None) -> Finding | None:
    """Return the error of an entry: it cannot be used, or it was altered.

    why: why it cannot be used.
    """
    name = f"serial {serial}"
    if why is not None:
        return Finding(DAMAGED_ENTRY, name, serial, "an entry", why)
    if proof not in (None, witness(data)):
        return Finding(OTHER_ENTRY, name, serial, "the entry that was committed", "another one")
    return None


def _entry_again(subject: Subject, serial: int) -> Finding | None:
    data, proof = audit.entry_now(subject.store, serial)
    if data is None:
        return None
    [(_, why, _)] = read_all([(serial, data)])
    return _problem(serial, data, why, proof)


def _explained(subject: Subject, history: History, named: int, before: int) -> bool:
    """Return whether a back serial is right although we know another entry, or none."""
    if named in history.unread:
        return True
    if before >= 0 or named < 0:
        return False
    # Compaction leaves an empty entry for a key before its deletion.
    rows = audit.entries(subject.store, named, named, 1)
    return [data for _, data in rows] == [EMPTY_ENTRY]


def _back_serial_again(subject: Subject, key: str, serial: int, before: int) -> Finding | None:
    data = audit.key_now(subject.store, "", (serial, before)).data
    change = _change(serial, data, key)
    if change is None or change == before or (before >= 0 and _change(before, data, key) is None):
        return None
    return wrong_back_serial(key, serial, before, change)


def _change(serial: int, data: dict[int, bytes], key: str) -> int | None:
    """Return the back serial that an entry has for a key; None if it has no such key."""
    try:
        changes = read_entry(serial, data.get(serial, b"")).changes
    except CorruptEntry:
        return None
    return changes[key].back_serial if key in changes else None


# Keys and ledger.


def load_keys(subject: Subject, scratch: Scratch) -> None:
    """Load all rows of the keys."""
    after: str | None = None
    while page := audit.keys(subject.store, after, _ROWS):
        after = page[-1].key
        subject.checked["keys"] += len(page)
        scratch.note_keys(page)
        subject.context.stop.check()


def load_ledger(subject: Subject, scratch: Scratch) -> None:
    """Load the ledger."""
    after = ""
    while page := audit.ledger(subject.store, after, _ROWS):
        after = page[-1].relpath
        scratch.note_files((row.relpath, row.serial, row.digest) for row in page)
        subject.context.stop.check()


def compare_keys(subject: Subject, scratch: Scratch, history: History) -> None:
    """Check that every key's row matches the history, and that there are no other rows."""
    load_keys(subject, scratch)
    for one in scratch.key_differences(history.upto):
        if one.found_serial in history.unread:
            continue
        subject.findings.suspect(_wrong_key(one), partial(_key_again, subject, history, one))


def _wrong_key(one: KeyDifference) -> Finding:
    expected = "no such key" if one.serial is None else f"serial {one.serial} as {one.keyname}"
    nothing = one.found_serial is None and one.found_keyname is None
    found = "no such key" if nothing else f"serial {one.found_serial} as {one.found_keyname}"
    return Finding(KEY, one.key, one.serial, expected, found)


def _key_again(subject: Subject, history: History, one: KeyDifference) -> Finding | None:
    now = audit.key_now(subject.store, one.key)
    serial = None if now.row is None else now.row.serial
    keyname = None if now.row is None else now.row.keyname
    if serial is not None and serial > history.upto and _change(serial, now.data, one.key) is not None:
        return None  # it changed since the history was read
    if (serial, keyname) == (one.serial, one.keyname):
        return None
    return _wrong_key(one._replace(found_keyname=keyname, found_serial=serial))


def compare_ledger(subject: Subject, scratch: Scratch, history: History) -> None:
    """Check that the ledger has exactly the files that the history says are there."""
    load_ledger(subject, scratch)
    for one in scratch.file_differences(history.upto):
        if one.found_serial in history.unread:
            continue
        subject.findings.suspect(_wrong_file(one), partial(_file_again, subject, history, one))


def _wrong_file(one: FileDifference) -> Finding:
    expected, found = (
        "no such file" if serial is None or digest is None else f"serial {serial}, {digest or 'no digest'}"
        for serial, digest in ((one.serial, one.digest), (one.found_serial, one.found_digest))
    )
    return Finding(LEDGER, one.relpath, one.serial, expected, found)


def _file_again(subject: Subject, history: History, one: FileDifference) -> Finding | None:
    row, _ = audit.file_now(subject.store, one.relpath)
    now = audit.key_now(subject.store, one.relpath).row
    if row != audit.file_now(subject.store, one.relpath)[0]:
        return None  # it is changing
    if now is not None and now.serial is not None and now.serial > history.upto:
        return None  # it changed since the history was read
    found = (None, None) if row is None else (row.serial, row.digest)
    expected = (None, None) if one.digest is None else (one.serial, one.digest)
    if found == expected:
        return None
    return _wrong_file(one._replace(found_serial=found[0], found_digest=found[1]))


def history(subject: Subject, scratch: Scratch) -> History:
    """Read the history, and compare keys and ledger with it."""
    found = read_history(subject, scratch)
    compare_keys(subject, scratch, found)
    compare_ledger(subject, scratch, found)
    return found
