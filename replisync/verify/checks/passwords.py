"""Passwords of users whose values came with the export that a standby began with.

devpi-import gives the empty password to each user without one in the dump (devpi_server/importexport.py), and
seeding once kept it. A hash of the empty password can also be the dump's own: devpi-server's root begins with
one. The primary tells them apart: its value of the user, as of the serial of the export, has the hash or not.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from replisync.changelog import History, rewritten, witness
from replisync.devpi import (
    PWHASH,
    PWSALT,
    READ_KEYNAMES,
    USER_KEYNAME,
    KeyChange,
    is_empty_password,
    parse_stored,
    user_name,
    without_password,
)
from replisync.errors import BrokenStream, CorruptEntry, PrimaryDamaged, WrongHistory
from replisync.replication import Patience, until
from replisync.standby import Repairs, Store, audit
from replisync.system import clock
from replisync.verify.findings import (
    EMPTY_PASSWORD,
    LISTED,
    PASSWORD,
    UNTRIED_PASSWORDS,
    Finding,
    Note,
    Report,
)
from replisync.verify.scratch import Scratch
from replisync.verify.subject import Subject

# The number of hashes to try, a tenth of a second each; further ones are only compared with the primary.
_TRIED = 50

# The number of the primary's entries to read at a time, back from the export: first this, then ever more.
_FIRST_ENTRIES = 1000
_MOST_ENTRIES = 50_000

_COMPARE = "; `--level primary` compares with the primary"
_CHANGE = "Change the user on the primary, such as its title: that brings the primary's password"

# The hash of a user's password, and its salt, as far as a value has them.
Password = dict[str, Any]


class User(NamedTuple):
    """A user with a hash that devpi-import may have made.

    key: of the user's value.
    serial: of the entry with this value.
    """

    key: str
    serial: int
    pwhash: str


class PrimaryUsers:
    """The passwords of a primary's users at a serial; each is requested once."""

    def __init__(self, primary: History, patience: Patience) -> None:
        self._primary = primary
        self._patience = patience
        self._asked: set[str] = set()
        self._known: dict[str, Password] = {}
        self.why = ""  # why others are unknown

    def of(self, subject: Subject, keys: Iterable[str], upto: int) -> dict[str, Password]:
        """Return the passwords as of serial `upto` by key, without unknown ones.

        An entry that cannot be read hides earlier ones: it could contain a later value.
        Raises PrimaryUnreachable or PrimaryRefused.
        """
        keys = list(keys)
        wanted = set(keys) - self._asked
        self._asked |= wanted
        size, end = _FIRST_ENTRIES, upto
        if wanted:
            subject.context.progress.stage("passwords", upto + 1, "serials")
        while wanted and end >= 0 and size:
            first = max(0, end + 1 - size)
            due, latest = self._read(subject, wanted, first, end)
            if due <= end:
                size = (end + 1 - due) // 2
                continue
            self._known |= latest
            wanted -= latest.keys()
            subject.context.progress.advance(end + 1 - first)
            size, end = min(2 * size, _MOST_ENTRIES), first - 1
        if end < 0:
            self._known |= {key: {} for key in wanted}
        return {key: self._known[key] for key in keys if key in self._known}

    def _read(
        self, subject: Subject, wanted: set[str], first: int, last: int
    ) -> tuple[int, dict[str, Password]]:
        """Return the last values of users in some entries, and the serial before which they were read."""
        due, latest = first, {}

        def read() -> None:
            nonlocal due
            while due <= last:
                subject.context.stop.check()
                begun = due
                with self._primary.changes(due, poll=False) as changes:
                    for group in until(changes.groups, last):
                        for entry in group:
                            latest.update(_passwords_in(entry.changes, wanted))
                            due = entry.serial + 1
                if due == begun:
                    raise BrokenStream("cannot read the primary's changelog", "the answer had no entries")

        try:
            self._patience.call(read, progress=lambda: due)
        except (PrimaryDamaged, WrongHistory) as err:
            self.why = f"the primary's entry at serial {due} cannot be read: {err.why}"
        return due, latest


def _passwords_in(changes: Mapping[str, KeyChange], wanted: set[str]) -> dict[str, Password]:
    return {
        key: _password_of(change.value)
        for key, change in changes.items()
        if change.keyname == USER_KEYNAME and key in wanted
    }


def _password_of(value: Any) -> Password:
    if not isinstance(value, Mapping):
        return {}
    return {name: value[name] for name in (PWHASH, PWSALT) if name in value}


def look_at_passwords(subject: Subject, users: PrimaryUsers | None) -> None:
    """Check users that came with an export for a password that the primary's users do not have.

    An empty password that the primary has too, or that cannot be compared, becomes a note.
    users: the primary's; None not to ask it.
    """
    seed = subject.source.based_on
    found = _users(subject.store, seed)
    empty = {user.key for user in found[:_TRIED] if _is_empty(subject, user)}
    doubtful = [user for user in found[:_TRIED] if user.key in empty] + found[_TRIED:]
    theirs = users.of(subject, [user.key for user in doubtful], seed) if users is not None else {}
    untried = 0
    for user in doubtful:
        password = theirs.get(user.key)
        if password is not None and password.get(PWHASH) != user.pwhash:
            finding = _finding(user, password, is_empty=user.key in empty)
            subject.findings.suspect(finding, partial(_again, subject, user, finding))
        elif user.key in empty:
            note = _note(subject, users, is_same=password is not None)
            if len(subject.notes) < LISTED:
                subject.notes.append(Note(EMPTY_PASSWORD, user_name(user.key), user.serial, note))
        elif password is None:
            untried += 1
    if untried:
        why = f": {users.why}" if users is not None else _COMPARE if subject.source.primary_url else ""
        said = f"not tried whether their passwords are empty{why}"
        subject.notes.append(Note(UNTRIED_PASSWORDS, f"{untried} users", None, said))


def _is_empty(subject: Subject, user: User) -> bool:
    subject.context.stop.check()
    subject.checked["passwords"] += 1
    return is_empty_password(user.pwhash)


def _users(store: Store, upto: int) -> list[User]:
    """Return the users with a hash that devpi-import may have made: no entry after `upto` changed them."""
    found: list[User] = []
    serial = -1
    changes: Mapping[str, KeyChange] = {}
    for row in audit.keys_of_kind(store, USER_KEYNAME, upto) if upto >= 0 else ():
        if row.serial is None:
            continue
        if row.serial != serial:
            serial, changes = row.serial, _changes(store, row.serial)
        pwhash = _password_of(changes[row.key].value).get(PWHASH) if row.key in changes else None
        if isinstance(pwhash, str) and pwhash.startswith("$argon2"):
            found.append(User(row.key, serial, pwhash))
    return found


def _changes(store: Store, serial: int) -> Mapping[str, KeyChange]:
    """Return the changes of an entry; none if it cannot be read, which is a finding of its own."""
    try:
        return parse_stored(serial, store.entry_data(serial) or b"", kinds=READ_KEYNAMES).changes
    except CorruptEntry:
        return {}


def _again(subject: Subject, user: User, finding: Finding) -> Finding | None:
    row = audit.key_now(subject.store, user.key).row
    if row is None or row.serial != user.serial:
        return None
    change = _changes(subject.store, user.serial).get(user.key)
    return finding if change is not None and _password_of(change.value).get(PWHASH) == user.pwhash else None


def _finding(user: User, theirs: Password, *, is_empty: bool) -> Finding:
    expected = "the primary's password" if theirs.get(PWHASH) else "no password"
    found = "the empty password" if is_empty else "another password"
    return Finding(PASSWORD, user_name(user.key), user.serial, expected, found)


def _note(subject: Subject, users: PrimaryUsers | None, *, is_same: bool) -> str:
    if is_same:
        return "the password is empty, as on the primary: anyone can log in"
    said = "the password is empty: anyone can log in"
    if users is not None:
        return f"{said}; it could not be compared: {users.why}. {_CHANGE}"
    return f"{said}{_COMPARE}" if subject.source.primary_url else said


def repair_passwords(subject: Subject, report: Report, users: PrimaryUsers) -> None:
    """Give the users of the findings the password that they have on the primary, or none.

    Their values are changed where the import wrote them, in one transaction; the primary's own, later entries
    stay as they are.
    """
    names = {one.subject for one in report.findings if one.kind == PASSWORD}
    seed, store = subject.source.based_on, subject.store
    wrong = [user for user in _users(store, seed) if user_name(user.key) in names]
    theirs = users.of(subject, [user.key for user in wrong], seed)
    due: dict[int, list[User]] = {}
    for user in wrong:
        if user.key in theirs:
            due.setdefault(user.serial, []).append(user)
    with Scratch(store.holds_key) as kept:
        repairs = Repairs()
        while due:
            serial = max(due)
            for before, some in _rewrite(store, kept, serial, due.pop(serial), theirs, repairs).items():
                due.setdefault(before, []).extend(some)
        repairs.entries = kept.kept_entries()
        store.repair(repairs, clock.now())


def _rewrite(
    store: Store, kept: Scratch, serial: int, users: list[User], theirs: dict[str, Password], repairs: Repairs
) -> dict[int, list[User]]:
    """Store an entry with the right passwords; return earlier entries with the wrong ones too."""
    data, proof = audit.entry_now(store, serial)
    if data is None or proof not in (None, witness(data)):
        return {}  # its former content is unknown
    try:
        changes = dict(parse_stored(serial, data).changes)
    except CorruptEntry:
        return {}
    before: dict[int, list[User]] = {}
    for user in users:
        change = changes.get(user.key)
        if change is None or _password_of(change.value).get(PWHASH) != user.pwhash:
            continue
        value = {name: one for name, one in without_password(change.value).items() if name != PWSALT}
        changes[user.key] = change._replace(value=value | theirs[user.key])
        if 0 <= change.back_serial < serial:
            before.setdefault(change.back_serial, []).append(user)
    new = rewritten(serial, changes).data
    kept.put_entry(serial, new)
    if proof is not None:
        repairs.witnesses[serial] = witness(new)
    return before
