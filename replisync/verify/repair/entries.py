"""The entries to replace by the primary's, and the rows to leave alone.

An entry that does not match its witness is not believed. Entries older than witnesses may have been altered
unnoticed: if rows do not match them, first compare the whole history with the primary's, which gives them
witnesses. If that is impossible, nothing is guessed: entries and rows stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

from replisync.changelog import witness
from replisync.devpi import EMPTY_ENTRY
from replisync.errors import Advice, CorruptEntry, Hint
from replisync.standby import audit
from replisync.verify.checks.entries import read_entry
from replisync.verify.checks.history import History, latest_of, read_history
from replisync.verify.checks.primary import Agreement, Ask
from replisync.verify.findings import BACK_SERIAL, KEY, LEDGER, OTHER_ENTRY, ROW, Finding, Findings, Report
from replisync.verify.scratch import EVER, FileDifference, KeyDifference, Scratch
from replisync.verify.subject import Subject

# A standby with more bad entries than this cannot be repaired.
_MOST = 10_000

# The number of good entries to pass by if they change nothing, and to compare on each side.
_LOOK_FAR = 64
_NEIGHBOURS = 2

# Kinds of findings for contradictions between rows and entries.
_CONTRADICTIONS = frozenset({KEY, LEDGER, BACK_SERIAL, ROW})

NOT_ASKED = "let it ask the primary: --secretfile or --replica-keyfile"
_EXPORTED = "it is older than the export that the standby began with: clone into an empty serverdir"
_OTHERS_AROUND = Hint(
    "the entries around it are not the primary's: run {}, which names the fork", Advice("catchup")
)
_TOO_MANY = "too many entries are wrong: clone into an empty serverdir"


# Compares the history up to a serial with the primary's, and finds the entries that differ.
Compare = Callable[[Subject, int], None]


@dataclass(slots=True)
class EntryRepair:
    """The repair of bad entries.

    history: the result of reading them.
    proved: the serial from which on all entries were compared with the primary's; before it, only witnesses
        tell which entries are right.
    replaced: those that are replaced by the primary's, which are in a temporary database.
    witnesses: to record of entries that come from the primary, or were compared with its own.
    hopeless: whether too much is missing to change anything.
    adopted: whether entries after our last commit proved to be the primary's.
    end: our last serial, if the timeline names later ones that were never committed.
    reasons: why others stay as they are, by serial.
    """

    history: History
    proved: int
    replaced: set[int] = field(default_factory=set)
    witnesses: dict[int, bytes] = field(default_factory=dict)
    hopeless: bool = False
    adopted: bool = False
    end: int | None = None
    reasons: dict[int, str | Hint] = field(default_factory=dict)


def find_entries(
    subject: Subject, report: Report, ask: Ask | None, compare: Compare | None, kept: Scratch
) -> EntryRepair:
    """Find the replacements of bad entries, and store them temporarily.

    report: the findings.
    ask: None if the primary cannot be asked.
    compare: None if it cannot be asked, or the comparison was done already.
    """
    last, committed = audit.position(subject.store)
    with Scratch(subject.store.holds_key) as scratch:
        history = read_history(replace(subject, findings=Findings(lambda: None)), scratch)
    first = Agreement(subject.store, subject.source).first
    # Entries that were not compared are judged by their witnesses alone.
    repair = EntryRepair(history, proved=last + 1 if ask is None or compare is not None else first)
    repair.end = _true_end(subject, ask, last, committed)
    repair.adopted = repair.end is not None
    if repair.end is not None:
        committed = repair.end
    if committed - history.upto > _MOST:
        repair.hopeless = True
        repair.reasons = {committed: _TOO_MANY, history.upto + 1: _TOO_MANY}
        return repair
    history.unread |= set(range(history.upto + 1, committed + 1))
    others = _others(report.findings)
    if compare is not None and history.unproved and not _CONTRADICTIONS.isdisjoint(report.counts):
        found = _compared(subject, compare, min(history.upto, committed))
        if len(found) <= _MOST:
            repair.proved = first
        others |= found
    bad = history.unread | history.odd | others
    if len(bad) > _MOST:
        repair.reasons = dict.fromkeys(bad, _TOO_MANY)
    else:
        _Finder(subject, ask, kept, bad).find(repair)
    if last > committed:
        _adopt(subject, ask, repair, committed, last)
    return repair


def _others(findings: Iterable[Finding]) -> set[int]:
    return {one.serial for one in findings if one.kind == OTHER_ENTRY and one.serial is not None}


def _compared(subject: Subject, compare: Compare, upto: int) -> set[int]:
    """Return the entries that differ from the primary's; equal ones get witnesses."""
    quiet = replace(subject, findings=Findings(lambda: None))
    compare(quiet, upto)
    quiet.findings.settle()
    # Only listed ones are known.
    listed = quiet.findings.listed
    return _others(listed) if quiet.findings.total == len(listed) else set(range(upto + 1))


def _true_end(subject: Subject, ask: Ask | None, last: int, committed: int) -> int | None:
    """Return our last serial if only the timeline names later ones; None if unknown.

    Lost entries leave keys that point at them, and the primary has them.
    """
    if ask is None or committed <= last:
        return None
    end = max(last, audit.key_below(subject.store, committed))
    try:
        never = ask(committed) is None and (end == last or ask(end) is not None)
    except CorruptEntry:
        return None
    return end if never else None


# Contradictions, in which either the entry or the row may be wrong.


def contradicted(subject: Subject, scratch: Scratch, repair: EntryRepair) -> dict[int, str | Hint]:
    """Return the entries that rows contradict and nothing proves, and why it is unknown which is right.

    scratch: the content of the history, with all keys and the ledger.
    """
    found: dict[int, str | Hint] = {}
    history = repair.history
    if not history.unproved:
        return found
    first = Agreement(subject.store, subject.source).first
    differences: Iterator[KeyDifference | FileDifference]
    differences = chain(scratch.key_differences(EVER), scratch.file_differences(EVER))
    for one in differences:
        subject.context.stop.check()
        serial = one.found_serial
        if serial is None or serial in found or not 0 <= serial < min(repair.proved, history.upto + 1):
            continue
        if serial in history.unread or serial in repair.replaced:
            continue
        data, proof = audit.entry_now(subject.store, serial)
        if proof is None and not _fits(one, serial, data or b""):
            found[serial] = _EXPORTED if serial < first else repair.reasons.get(serial, NOT_ASKED)
    return found


def _fits(one: KeyDifference | FileDifference, serial: int, data: bytes) -> bool:
    """Return whether a row matches the entry that it points at: then it is only an old one."""
    name = one.key if isinstance(one, KeyDifference) else one.relpath
    said = next((each for each in latest_of(read_entry(serial, data)) if each.key == name), None)
    if isinstance(one, KeyDifference):
        return said is not None and said.keyname == one.found_keyname
    return said is not None and said.file == one.found_digest


# Replacements from the primary.


class _Finder:
    """Finds the primary's entries that replace bad ones.

    bad: the serials of all bad entries.
    """

    def __init__(self, subject: Subject, ask: Ask | None, kept: Scratch, bad: set[int]) -> None:
        self._subject = subject
        self._ask = ask
        self._kept = kept
        self._bad = bad
        self._agreement = Agreement(subject.store, subject.source)

    def find(self, repair: EntryRepair) -> None:
        """Store the replacements, and note which entries stay as they are, and why."""
        for run in _runs(self._bad):
            # All entries of a run are bad: they have the same neighbours.
            neighbours: tuple[list[bool], list[bool]] | None = None
            for serial in run:
                self._subject.context.stop.check()
                if neighbours is None and self._ask is not None and serial >= self._agreement.first:
                    neighbours = self._neighbours_of(self._ask, run)
                reason = self._find_entry(serial, run, neighbours, repair)
                if reason is None:
                    repair.replaced.add(serial)
                elif reason:
                    repair.reasons[serial] = reason

    def _neighbours_of(self, ask: Ask, run: range) -> tuple[list[bool], list[bool]]:
        last = max(audit.position(self._subject.store).last, run.stop - 1)
        below = self._neighbours(ask, range(run.start - 1, self._agreement.first - 1, -1))
        above = self._neighbours(ask, range(run.stop, last + 1))
        return list(below), list(above)

    def _find_entry(
        self, serial: int, run: range, neighbours: tuple[list[bool], list[bool]] | None, repair: EntryRepair
    ) -> str | Hint | None:
        """Store the primary's entry and return None; "" if ours is the primary's; otherwise the reason."""
        if serial < self._agreement.first:
            return _EXPORTED
        if self._ask is None or neighbours is None:
            return NOT_ASKED
        below, above = neighbours
        try:
            theirs = self._ask(serial)
        except CorruptEntry as err:
            return f"the primary's own entry cannot be used: {err.why}"
        if theirs is None:
            return "the primary has no such entry"
        # Entries after an export have other bytes than the primary's.
        own_bytes = self._agreement.first == 0
        ours, proof = audit.entry_now(self._subject.store, serial)
        found = witness(theirs.data)
        if own_bytes and theirs.data == ours:
            repair.witnesses[serial] = found
            return ""
        if not (own_bytes and found == proof):
            if not all((*below, *above)) or not (below or above or run.start == 0):
                return _OTHERS_AROUND
            altered = serial in repair.history.altered and not own_bytes
            if not above and not altered and self._can_be_read(serial, ours):
                # An altered entry, and a primary that was rewound to before it, look the same from here.
                back = Advice("rewind", to_serial=run.start - 1)
                return Hint("go back with {}, then on with {}", back, Advice("catchup"))
        self._kept.put_entry(serial, theirs.data)
        return None

    @staticmethod
    def _can_be_read(serial: int, ours: bytes | None) -> bool:
        try:
            read_entry(serial, ours or b"")
        except CorruptEntry:
            return False
        return True

    def _neighbours(self, ask: Ask, serials: Iterable[int]) -> Iterator[bool]:
        """Yield whether the next good entries of ours that change something are the primary's."""
        found = passed = 0
        for serial in serials:
            if serial in self._bad:
                continue
            ours = self._subject.store.entry_data(serial)
            if ours is None or ours == EMPTY_ENTRY:
                passed += 1
                if passed == _LOOK_FAR:
                    return
                continue
            theirs = ask(serial)
            # Alone, an entry of a standby that began with an export proves less, but enough.
            fresh = Agreement(self._subject.store, self._subject.source)
            yield theirs is not None and fresh.same(serial, ours, theirs)
            found += 1
            if found == _NEIGHBOURS:
                return


def _runs(serials: set[int]) -> Iterator[range]:
    """Yield serials as ranges without gaps."""
    for _, run in groupby(enumerate(sorted(serials)), lambda one: one[1] - one[0]):
        found = [serial for _, serial in run]
        yield range(found[0], found[-1] + 1)


# Foreign entries.


def _adopt(subject: Subject, ask: Ask | None, repair: EntryRepair, committed: int, last: int) -> None:
    """Check whether foreign entries after our last commit are the primary's."""
    agreement = Agreement(subject.store, subject.source)
    tip, _, _ = audit.tip_now(subject.store)
    if agreement.first > 0 and (tip is None or tip[0] != last):
        # A devpi-server stores the primary's back serials; next to our own entries are the primary's bytes.
        repair.reasons[committed] = "a devpi-server wrote to it: clone into an empty serverdir"
        return
    first = max(committed + 1, agreement.first)
    if last - first >= _MOST:
        repair.reasons[committed] = _TOO_MANY
        return
    for serial in range(first, last + 1):
        ours = subject.store.entry_data(serial)
        theirs = ask(serial) if ask is not None and ours is not None else None
        if theirs is None or ours is None or not agreement.same(serial, ours, theirs):
            repair.reasons[committed] = (
                "let it ask the primary about its entry: --secretfile or --replica-keyfile"
                if ask is None
                else "the primary has another entry there: find out which devpi-server wrote to the standby, "
                "and clone into an empty serverdir"
            )
            return
        if ours == theirs.data:
            repair.witnesses[serial] = witness(ours)
    repair.adopted = True
