"""Which entries are to be replaced by the primary's, and which rows are not to be touched.

An entry that can be read may have been altered all the same. So where a row of the keys or of the ledger
says another thing than an entry, neither is believed: the primary's own entry tells which of the two is
wrong. Where it cannot be had, both stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry
from replisync.standby.database import audit
from replisync.verify.checks.history import History, latest_of, load_keys, load_ledger, read_history
from replisync.verify.checks.primary import Agreement, Ask
from replisync.verify.findings import LISTED, OTHER_ENTRY, Findings, Report
from replisync.verify.repair.disputes import Dispute, find_disputes
from replisync.verify.scratch import FileDifference, KeyDifference, Scratch
from replisync.verify.subject import Subject

# A standby with more bad entries than this is no standby that could be mended.
_MOST = 10_000

# How many good entries are passed by, where they change nothing, and how many are compared on each side.
_LOOK_FAR = 64
_NEIGHBOURS = 2

# Entries that the primary is asked for one by one; where more are in doubt its changelog is read as a whole.
_ONE_BY_ONE = 50

_NOBODY_ASKED = "let the primary be asked: --secretfile or --replica-keyfile"
_EXPORTED = "it is older than the export that the standby began with: clone into an empty serverdir"
_TOO_MANY = "too many entries are wrong: clone into an empty serverdir"


@dataclass(frozen=True, slots=True)
class Asking:
    """How the primary is asked.

    one: asks it for an entry; None where it cannot be asked.
    all: compares the history up to a serial with the primary's, and finds the entries that are others; None
        where it cannot be asked, or that was done already.
    """

    one: Ask | None
    all: Callable[[Subject, int], None] | None = None


@dataclass(slots=True)
class Healing:
    """What becomes of the entries that are not right.

    odd: those that can be read and only name other back serials.
    lost: those that are missing or cannot be read.
    replaced: those whose places the primary's take; these are kept in a temporary database.
    disputed: those that rows contradict, and nobody knows which of the two is right.
    hopeless: whether so much is missing that nothing is to be touched.
    adopted: whether entries behind our last commit were found to be the primary's.
    end: our last serial, where the timeline names later ones that were never committed.
    reasons: why others stay as they are, by serial.
    """

    odd: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    hopeless: bool = False
    adopted: bool = False
    end: int | None = None
    replaced: set[int] = field(default_factory=set)
    disputed: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def reason_to_leave(self, one: KeyDifference | FileDifference) -> str | None:
        """Return why a row is not set right by what the history says; None where it is."""
        for serial in (one.found_serial, one.serial):
            if serial in self.disputed:
                why = self.reasons.get(serial, _NOBODY_ASKED)
                return f"it and the entry at serial {serial} do not fit together: {why}"
        return None


def find_entries(subject: Subject, report: Report, asking: Asking, kept: Scratch) -> Healing:
    """Find what the places of entries that are not right are to have, and keep it.

    report: what was found.
    """
    last, committed = audit.position(subject.store)
    with Scratch(subject.store.holds_key) as scratch:
        quiet = replace(subject, findings=Findings(lambda: None))
        history = read_history(quiet, scratch)
        load_keys(quiet, scratch)
        load_ledger(quiet, scratch)
        dispute = find_disputes(subject, scratch, history)
    others = {one.serial for one in report.findings if one.kind == OTHER_ENTRY and one.serial is not None}
    end = _true_end(subject, asking.one, last, committed)
    if end is not None:
        committed = end
    if committed - history.upto > _MOST:
        return Healing(hopeless=True, reasons={committed: _TOO_MANY, history.upto + 1: _TOO_MANY})
    lost = history.unread | set(range(history.upto + 1, committed + 1))
    healing = Healing(odd=history.odd - lost, lost=lost, end=end, adopted=end is not None)
    others |= _judge(subject, asking, history, dispute, healing)
    bad = lost | history.odd | others
    if len(bad) > _MOST:
        healing.reasons = dict.fromkeys(bad, _TOO_MANY)
    else:
        _Finder(subject, asking.one, kept, bad, dispute.contradicted).find(healing)
    healing.disputed |= others - healing.replaced
    if last > committed:
        _adopt(subject, asking.one, healing, committed, last)
    return healing


def _true_end(subject: Subject, ask: Ask | None, last: int, committed: int) -> int | None:
    """Return our last serial where only the timeline says that we had later ones; None where nobody knows.

    Entries that are lost leave keys that point at them, and the primary has them.
    """
    if ask is None or committed <= last:
        return None
    end = max(last, audit.key_below(subject.store, committed))
    try:
        never = ask(committed) is None and (end == last or ask(end) is not None)
    except CorruptEntry:
        return None
    return end if never else None


# Whether entries are the primary's, where rows contradict them.


def _judge(
    subject: Subject, asking: Asking, history: History, dispute: Dispute, healing: Healing
) -> set[int]:
    """Return which entries are others than the primary's; what cannot be judged becomes disputed."""
    agreement = Agreement(subject.store, subject.source)
    exported = {serial for serial in dispute.contradicted if serial < agreement.first}
    healing.disputed |= exported
    healing.reasons |= dict.fromkeys(exported, _EXPORTED)
    doubtful = {serial for serial in dispute.concerned if serial >= agreement.first} - healing.lost
    if not doubtful:
        return set()
    if asking.one is None:
        healing.disputed |= dispute.contradicted
        return set()
    if asking.all is None:
        return set()  # All others are known already.
    # By itself an entry of a standby that began with an export does not tell enough.
    if len(doubtful) > _ONE_BY_ONE or agreement.first > 0:
        quiet = replace(subject, findings=Findings(lambda: None))
        asking.all(quiet, min(history.upto, audit.position(subject.store).committed))
        quiet.findings.settle()
        if quiet.findings.total > LISTED:
            healing.disputed |= dispute.contradicted
            healing.reasons |= dict.fromkeys(dispute.contradicted, _TOO_MANY)
        return {one.serial for one in quiet.findings.listed if one.serial is not None}
    return _ask_one_by_one(subject, asking.one, agreement, dispute, doubtful, healing)


def _ask_one_by_one(
    subject: Subject, ask: Ask, agreement: Agreement, dispute: Dispute, doubtful: set[int], healing: Healing
) -> set[int]:
    others: set[int] = set()
    for serial in sorted(doubtful):
        subject.context.stop.check()
        ours = subject.store.entry_data(serial)
        why = "the primary has no such entry"
        try:
            theirs = ask(serial)
        except CorruptEntry as err:
            theirs, why = None, f"the primary's own entry cannot be used: {err.why}"
        if theirs is None or ours is None:
            if serial in dispute.contradicted:
                healing.disputed.add(serial)
                healing.reasons[serial] = why
        elif not agreement.same(serial, ours, theirs):
            others.add(serial)
    return others


# What the primary has in their places.


class _Finder:
    """Finds the primary's entries for the places of bad ones.

    bad: the serials of all of them.
    contradicted: those that rows contradict.
    """

    def __init__(
        self, subject: Subject, ask: Ask | None, kept: Scratch, bad: set[int], contradicted: set[int]
    ) -> None:
        self._contradicted = contradicted
        self._subject = subject
        self._ask = ask
        self._kept = kept
        self._bad = bad
        self._agreement = Agreement(subject.store, subject.source)

    def find(self, healing: Healing) -> None:
        """Keep what is to be in their places, and note what stays as it is, and why."""
        for run in _runs(self._bad):
            # Whatever is between them is bad: all of a run have the same neighbours.
            neighbours: tuple[list[bool], list[bool]] | None = None
            for serial in run:
                self._subject.context.stop.check()
                if neighbours is None and self._ask is not None and serial >= self._agreement.first:
                    neighbours = self._neighbours_of(self._ask, run)
                reason = self._find_entry(serial, run, neighbours, decodes=serial not in healing.lost)
                if reason is None:
                    healing.replaced.add(serial)
                elif reason:
                    healing.reasons[serial] = reason

    def _neighbours_of(self, ask: Ask, run: range) -> tuple[list[bool], list[bool]]:
        last = max(audit.position(self._subject.store).last, run.stop - 1)
        below = self._neighbours(ask, range(run.start - 1, self._agreement.first - 1, -1))
        above = self._neighbours(ask, range(run.stop, last + 1))
        return list(below), list(above)

    def _find_entry(
        self, serial: int, run: range, neighbours: tuple[list[bool], list[bool]] | None, *, decodes: bool
    ) -> str | None:
        """Keep the primary's entry; return why not, "" where ours is the primary's; None if it is kept."""
        if serial < self._agreement.first:
            return _EXPORTED
        if self._ask is None or neighbours is None:
            return _NOBODY_ASKED
        below, above = neighbours
        try:
            theirs = self._ask(serial)
        except CorruptEntry as err:
            return f"the primary's own entry cannot be used: {err.why}"
        if theirs is None:
            return "the primary has no such entry"
        if decodes and self._agreement.first == 0 and theirs.data == self._subject.store.entry_data(serial):
            return ""
        if not all((*below, *above)) or not (below or above or run.start == 0):
            return (
                "the entries around it are not the primary's: see `replisync catchup`, which names the fork"
            )
        if decodes and not above and not self._is_altered(serial, theirs):
            # That an entry was altered, or the primary rewound to before it, looks the same from here.
            back = f"`replisync rewind --to-serial {run.start - 1}`"
            return f"go back with {back}, then on with `replisync catchup`"
        self._kept.put_entry(serial, theirs.data)
        return None

    def _is_altered(self, serial: int, theirs: ChangelogEntry) -> bool:
        """Tell whether the primary's entry is what ours was when it was committed, as the last one.

        Its rows were written with it: where they contradict it, and say what the primary's says, it is known.
        """
        if _says_the_same(self._subject, serial, theirs.data):
            return True
        if serial not in self._contradicted or self._agreement.first > 0:
            return False
        said = latest_of(theirs)
        keys = {one.key: one.keyname for one in said}
        files = {one.key: one.file for one in said if one.file is not None}
        return audit.rows_at(self._subject.store, serial) == (keys, files)

    def _neighbours(self, ask: Ask, serials: Iterable[int]) -> Iterator[bool]:
        """Yield whether good entries of ours, the next ones that change something, are the primary's."""
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
            # By itself an entry of a standby that began with an export tells less, and enough.
            fresh = Agreement(self._subject.store, self._subject.source)
            yield theirs is not None and fresh.same(serial, ours, theirs)
            found += 1
            if found == _NEIGHBOURS:
                return


def _runs(serials: set[int]) -> Iterator[range]:
    """Yield serials as ranges that follow each other without a gap."""
    begin = end = None
    for serial in sorted(serials):
        if end is not None and begin is not None and serial != end:
            yield range(begin, end)
            begin = None
        begin = serial if begin is None else begin
        end = serial + 1
    if begin is not None and end is not None:
        yield range(begin, end)


def _says_the_same(subject: Subject, serial: int, theirs: bytes) -> bool:
    """Tell whether our entry says what the primary's says, but for back serials."""
    try:
        ours = parse_stored(serial, subject.store.entry_data(serial) or b"").changes
        full = parse_stored(serial, theirs).changes
    except CorruptEntry:
        return False
    return {path: (c.keyname, c.value) for path, c in ours.items()} == {
        path: (c.keyname, c.value) for path, c in full.items()
    }


# What somebody else wrote.


def _adopt(subject: Subject, ask: Ask | None, healing: Healing, committed: int, last: int) -> None:
    """Look whether what somebody else wrote behind our last commit is what the primary has there."""
    agreement = Agreement(subject.store, subject.source)
    tip, _, _ = audit.tip_now(subject.store)
    if agreement.first > 0 and (tip is None or tip[0] != last):
        # What a devpi-server stored has the primary's back serials; beside our own are the primary's bytes.
        healing.reasons[committed] = "a devpi-server wrote to it: clone into an empty serverdir"
        return
    first = max(committed + 1, agreement.first)
    if last - first >= _MOST:
        healing.reasons[committed] = _TOO_MANY
        return
    for serial in range(first, last + 1):
        ours = subject.store.entry_data(serial)
        theirs = ask(serial) if ask is not None and ours is not None else None
        if theirs is None or ours is None or not agreement.same(serial, ours, theirs):
            healing.reasons[committed] = (
                "let the primary be asked whether it is its entry: --secretfile or --replica-keyfile"
                if ask is None
                else "the primary has another entry there: find out which devpi-server wrote to the standby, "
                "and clone into an empty serverdir"
            )
            return
    healing.adopted = True
