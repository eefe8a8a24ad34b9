"""Comparison with the primary's changelog: streamed, entry by entry, without storing it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from replisync.changelog import Comparison, History, Source, witness
from replisync.devpi import (
    EMPTY_ENTRY,
    READ_KEYNAMES,
    USER_KEYNAME,
    ChangelogEntry,
    KeyChange,
    digest,
    index_of,
    index_type,
    parse_stored,
    same_entry,
    user_key,
)
from replisync.errors import Advice, BrokenStream, CorruptEntry, Hint
from replisync.replication import Patience, until
from replisync.standby import Store, audit
from replisync.verify.findings import OTHER_ENTRY, Finding
from replisync.verify.subject import Subject

# More differences in a row than this are not damage of single entries.
_MANY = 100

# Nor are differences in this number of last entries that change something.
_LAST = 4

# Asks the primary for an entry; None if it has none.
Ask = Callable[[int], ChangelogEntry | None]

# A user whose entries are damaged: the types of the indexes are unknown.
_UNKNOWN = object()

_REMEDY = Hint(
    "`--repair` takes the primary's entry where its neighbours agree; if all later entries differ too, the "
    "standby has diverged, and {} names the serial to rewind to",
    Advice("catchup"),
)


def _last_remedy(serial: int) -> Hint:
    return Hint(
        "at the very end an altered entry and a primary that was taken back look the same: {}, then {}",
        Advice("rewind", to_serial=serial - 1),
        Advice("catchup"),
    )


class Agreement:
    """Compares the contents of our entries with the primary's.

    A standby that began with an export has the primary's entries after its seed, with its own back serials
    and without the keys of mirrors; serials must come in order then.
    """

    def __init__(self, store: Store, source: Source) -> None:
        self._store = store
        self._based_on = source.based_on
        self._users: dict[str, Any] = {}

    @property
    def first(self) -> int:
        """The lowest serial whose entry of ours is the primary's."""
        return self._based_on + 1

    def same(self, serial: int, ours: bytes, theirs: ChangelogEntry) -> bool:
        """Return whether two entries have equal content; True if ours is unreadable, which others report."""
        if ours == theirs.data:
            if self._based_on >= 0:
                # Later entries are judged by the types that indexes have then.
                self._users |= _users_in(theirs.changes)
            return True
        try:
            parse_stored(serial, ours)
        except CorruptEntry:
            return True
        try:
            if self._based_on < 0:
                return same_entry(ours, theirs.data)
            return self._same_rebased(serial, ours, theirs)
        except CorruptEntry:
            return False

    def _same_rebased(self, serial: int, ours: bytes, theirs: ChangelogEntry) -> bool:
        full = parse_stored(serial, theirs.data).changes
        before = {path: self._user(path) for path in {user_key(path) for path in full}}
        self._users |= _users_in(full)
        mine = parse_stored(serial, ours).changes
        if not set(mine) <= set(full):
            return False
        for path, change in full.items():
            known = mine.get(path)
            if known is None:
                users = (before[user_key(path)], self._users[user_key(path)])
                if change.keyname == USER_KEYNAME or not _is_mirrors(path, users):
                    return False
            elif (known.keyname, known.value) != (change.keyname, change.value):
                return False
        return True

    def _user(self, path: str) -> Any:
        if path not in self._users:
            try:
                self._users[path] = value_at(self._store, path, self._based_on)
            except CorruptEntry:
                self._users[path] = _UNKNOWN
        return self._users[path]


def _users_in(changes: Mapping[str, KeyChange]) -> dict[str, Any]:
    return {path: change.value for path, change in changes.items() if change.keyname == USER_KEYNAME}


def _is_mirrors(path: str, users: tuple[Any, ...]) -> bool:
    return any(user is _UNKNOWN or index_type(user, index_of(path)) == "mirror" for user in users)


def value_at(store: Store, key: str, serial: int) -> Any:
    """Return the value that a key had at a serial, by its chain of back serials; None if it had none.

    Raises CorruptEntry if the chain is broken.
    """
    at = store.serials_of([key]).get(key, -1)
    while at >= 0:
        change = parse_stored(at, store.entry_data(at) or b"", kinds=READ_KEYNAMES).changes.get(key)
        if change is None:
            return None
        if at <= serial:
            return change.value
        if change.back_serial >= at:
            return None
        at = change.back_serial
    return None


def compare(subject: Subject, primary: History, patience: Patience, upto: int) -> None:
    """Check that all entries up to `upto` are the primary's.

    Raises WrongHistory if the standby has diverged.
    """
    agreement = Agreement(subject.store, subject.source)
    due, differing, last = agreement.first, 0, 0
    subject.context.progress.stage("primary", max(0, upto + 1 - due), "serials")

    def ask(serial: int) -> ChangelogEntry | None:
        return patience.call(lambda: primary.entry(serial)[1])

    def read() -> None:
        nonlocal due, differing, last
        while due <= upto:
            subject.context.stop.check()
            with primary.changes(due, poll=False) as changes:
                if changes.hello.serial < upto:
                    check_same_history(subject, primary, upto)
                begun = due
                for group in until(changes.groups, upto):
                    if group:
                        found, last = _compare_group(subject, agreement, ask, group, last)
                        differing += found
                        due = group[-1].serial + 1
                        subject.context.progress.advance(len(group), sum(len(e.data) for e in group))
                        subject.context.stop.check()
                    if differing > _MANY:
                        check_same_history(subject, primary, _readable(subject.store, upto))
                        differing = 0
                if due == begun:
                    raise BrokenStream("cannot read the primary's changelog", "the answer had no entries")

    patience.call(read, progress=lambda: due)
    if last >= _LAST:
        tip = _readable(subject.store, upto)
        patience.call(lambda: check_same_history(subject, primary, tip))


def _readable(store: Store, serial: int) -> int:
    """Return the last serial, up to this one, whose entry of ours can be read."""
    while serial > 0:
        try:
            parse_stored(serial, store.primary_entry(serial) or b"")
        except CorruptEntry:
            serial -= 1
        else:
            break
    return serial


def check_same_history(subject: Subject, primary: History, serial: int) -> None:
    """Check that the primary has our last entries.

    Raises WrongHistory, which names the serial up to which both agree.
    """
    first = 0 if subject.source.based_on < 0 else max(serial, 0)
    Comparison(subject.store.primary_entry, primary.entry, first=first).check(serial)


def _compare_group(
    subject: Subject, agreement: Agreement, ask: Ask, group: list[ChangelogEntry], last: int
) -> tuple[int, int]:
    """Compare a group of the primary's entries; return the number in a row that differ at its end.

    last: the number that differed in a row before them. Entries that change nothing do not count.
    """
    differing = 0
    theirs = {entry.serial: entry for entry in group}
    proofs = audit.witnesses(subject.store, group[0].serial, group[-1].serial)
    compared: dict[int, bytes] = {}
    for serial, data in _ours(subject.store, group[0].serial, group[-1].serial):
        entry = theirs[serial]
        subject.checked["primary_entries"] += 1
        # Only equal bytes: equal content may still be damaged in parts that are not compared.
        if data == entry.data and proofs.get(serial) != (proof := witness(data)):
            compared[serial] = proof
        if agreement.same(serial, data, entry):
            last = last if data == EMPTY_ENTRY else 0
        else:
            differing, last = differing + 1, last + 1
            finding = _other(subject, serial, data, entry)
            subject.findings.suspect(finding, partial(_again, subject, ask, serial))
    if compared:
        subject.keep(compared)
    return differing, last


def _ours(store: Store, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    while page := audit.entries(store, first, last, last - first + 1):
        yield from page
        first = page[-1][0] + 1


def _other(subject: Subject, serial: int, ours: bytes, theirs: ChangelogEntry) -> Finding:
    # A standby that began with an export cannot be rewound.
    last = serial == audit.position(subject.store).last and subject.source.based_on < 0
    return Finding(
        OTHER_ENTRY,
        f"serial {serial}",
        serial,
        f"the primary's entry, sha256 {digest(theirs.data)}",
        f"sha256 {digest(ours)}",
        _last_remedy(serial) if last else _REMEDY,
    )


def _again(subject: Subject, ask: Ask, serial: int) -> Finding | None:
    data = subject.store.entry_data(serial)
    entry = ask(serial)
    if data is None or entry is None:
        return None
    if subject.source.based_on < 0 and Agreement(subject.store, subject.source).same(serial, data, entry):
        return None
    return _other(subject, serial, data, entry)
