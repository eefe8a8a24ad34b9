"""Where rows and entries contradict each other, and either of the two may be what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from replisync.errors import CorruptEntry
from replisync.verify.checks.entries import read_entry
from replisync.verify.checks.history import History, latest_of
from replisync.verify.scratch import FileDifference, KeyDifference, Latest, Scratch
from replisync.verify.subject import Subject

# Nobody writes meanwhile, so no row is too new.
EVER = 2**63 - 1


@dataclass(slots=True)
class Dispute:
    """The entries that are in doubt.

    concerned: the serials of all entries that a row, or the chain of back serials, does not fit to.
    contradicted: those of which a row says another thing than the entry that it points at.
    """

    concerned: set[int] = field(default_factory=set)
    contradicted: set[int] = field(default_factory=set)


def find_disputes(subject: Subject, scratch: Scratch, history: History) -> Dispute:
    """Return which entries do not fit to the rows.

    scratch: what the history says, with all keys and the ledger.
    """
    dispute = Dispute()
    entries = _Entries(subject)

    def note(serial: int, *, contradicted: bool = False) -> None:
        if 0 <= serial <= history.upto and serial not in history.unread:
            dispute.concerned.add(serial)
            if contradicted:
                dispute.contradicted.add(serial)

    for serial in history.odd | history.named:
        note(serial)
    for one in _differences(scratch):
        subject.context.stop.check()
        if one.serial is not None:
            note(one.serial)
        at = one.found_serial
        if at is not None and 0 <= at <= history.upto and at not in history.unread:
            note(at, contradicted=not _fits(one, entries.at(at)))
    return dispute


def _differences(scratch: Scratch) -> Iterator[KeyDifference | FileDifference]:
    yield from scratch.key_differences(EVER)
    yield from scratch.file_differences(EVER)


def _fits(one: KeyDifference | FileDifference, said: dict[str, Latest]) -> bool:
    """Tell whether a row is what the entry says that it points at: then it is only an old one."""
    if isinstance(one, KeyDifference):
        found = said.get(one.key)
        return found is not None and found.keyname == one.found_keyname
    found = said.get(one.relpath)
    return found is not None and found.file == one.found_digest


class _Entries:
    """What entries say, of which the last one is remembered: differences of one entry often come together."""

    def __init__(self, subject: Subject) -> None:
        self._store = subject.store
        self._serial = -1
        self._said: dict[str, Latest] = {}

    def at(self, serial: int) -> dict[str, Latest]:
        """Return what an entry says, by key."""
        if serial != self._serial:
            self._serial, self._said = serial, {}
            try:
                entry = read_entry(serial, self._store.entry_data(serial) or b"")
            except CorruptEntry:
                return {}
            self._said = {one.key: one for one in latest_of(entry)}
        return self._said
