"""The files and users of an older serial, as later serials changed them.

Read the later serials from the last one down; the back serial of a key's first change names the entry with
its earlier value.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replisync.changelog import Batch
from replisync.devpi import FILE_KEYNAMES, READ_KEYNAMES, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry
from replisync.standby import Store, damaged


@dataclass(slots=True)
class Undo(Batch):
    """The undo of the serials `first` to `last - 1`: files and users as before them.

    until: for each wanted file, the first of those serials that changed it.
    unchanged: files without a digest whose time of change is the same before and after.
    """

    until: dict[str, int] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)

    def changed_file(self, relpath: str) -> int:  # noqa: ARG002
        """Return the serial under which to retain a file: one that was never committed."""
        return self.last


@dataclass(slots=True)
class _Change:
    """The effect of the later serials on a key: the first that changed it, the one before, the last value."""

    first: int
    back_serial: int
    keyname: str
    latest: Any


def plan(store: Store, to_serial: int) -> Undo:
    """Return the undo that takes the store back to a serial.

    It grows with the number of files that the later serials changed.
    Raises TargetUnusable if our own history is incomplete.
    """
    last = store.last_serial()
    changed = _changed(store, last, to_serial)
    undo = Undo(to_serial + 1, last + 1)
    named: dict[int, list[str]] = defaultdict(list)
    for relpath, change in changed.items():
        named[change.back_serial].append(relpath)
    for serial in sorted(named):
        entry = _entry(serial, store.entry_data(serial) or b"") if serial >= 0 else None
        for relpath in named[serial]:
            _add(undo, relpath, changed[relpath], serial, entry)
    return undo


def _changed(store: Store, last: int, to_serial: int) -> dict[str, _Change]:
    """Return the keys of files and users that the serials after `to_serial` changed."""
    changed: dict[str, _Change] = {}
    before = last + 1
    while rows := store.entries_behind(to_serial, before):
        for serial, data in rows:
            for relpath, (keyname, back_serial, value) in _entry(serial, data).changes.items():
                if keyname not in READ_KEYNAMES:
                    continue
                known = changed.get(relpath)
                latest = value if known is None else known.latest
                changed[relpath] = _Change(serial, back_serial, keyname, latest)
        before = rows[-1][0]
    return changed


def _entry(serial: int, data: bytes) -> ChangelogEntry:
    try:
        return parse_stored(serial, data, kinds=READ_KEYNAMES)
    except CorruptEntry as err:
        raise damaged(serial, err.why) from err


def _add(undo: Undo, relpath: str, change: _Change, serial: int, entry: ChangelogEntry | None) -> None:
    value = None
    if entry is not None:
        if relpath not in entry.changes or serial >= undo.first:
            raise damaged(serial, f"it has no {relpath}, although a back serial names it")
        value = entry.changes[relpath].value
    if change.keyname not in FILE_KEYNAMES:
        undo.users[relpath] = value
        return
    undo.add_file(relpath, serial, value)
    file = undo.wanted.get(relpath)
    if file is None:
        return
    undo.until[relpath] = change.first
    if file.digest is None and _modified(change.latest) == _modified(value):
        undo.unchanged.add(relpath)


def _modified(value: Any) -> object:
    return value.get("last_modified") if isinstance(value, Mapping) else None
