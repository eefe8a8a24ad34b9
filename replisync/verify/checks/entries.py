"""The content of an entry, as devpi-server can use it; does no I/O."""

from collections.abc import Iterable

from replisync.changelog import wanted_file
from replisync.devpi import FILE_KEYNAMES, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry

# A change: key, keyname, back serial, and the digest of its file: "" for none, None for no file.
Change = tuple[str, str, int, str | None]

# The content of an entry: the reason why it cannot be used, or None, and its changes.
Read = tuple[int, str | None, list[Change]]


def read_entry(serial: int, data: bytes) -> ChangelogEntry:
    """Return the entry in stored bytes, with all values built, as devpi-server needs them.

    Raises CorruptEntry.
    """
    entry = parse_stored(serial, data)
    if entry.data != data:
        raise CorruptEntry("cannot read an entry", "it has a list of renames, which are the primary's own")
    return entry


def changes_of(entry: ChangelogEntry) -> list[Change]:
    """Return the content of an entry for each of its keys."""
    found: list[Change] = []
    for relpath, change in entry.changes.items():
        file = None
        if change.keyname in FILE_KEYNAMES:
            wanted = wanted_file(relpath, entry.serial, change.value)
            file = None if wanted is None else str(wanted.digest or "")
        found.append((relpath, change.keyname, change.back_serial, file))
    return found


def read_all(entries: Iterable[tuple[int, bytes]]) -> list[Read]:
    """Return the readable content of entries."""
    found: list[Read] = []
    for serial, data in entries:
        try:
            found.append((serial, None, changes_of(read_entry(serial, data))))
        except CorruptEntry as err:
            found.append((serial, err.why, []))
    return found
