"""Changelog entries: from the bytes of each of devpi's framings to entries that can be stored and compared.

devpi stores per serial `dumps((changes, rel_renames))`, where `changes` maps a relpath to
`(keyname, back_serial, value)` and `rel_renames` names the primary's own temporary files. It sends them

- streaming (since 6.5.0): `dumps(serial)` and the stored bytes, for each serial of the answer;
- batched (since 4.9.0): `dumps([(serial, changes), ...])`, decoded and encoded again by the server;
- singly (since 2.0): the stored bytes of one serial.

What we store, and compare histories by, is the primary's own bytes of the changes followed by an empty
list of renames: a stock devpi-server would look for the files of a list that is not empty when it starts.
The format is a postfix one, so this replaces a tail and encodes nothing anew.

No I/O here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from replisync.devpi.wire import Decoded, Decoder, Limits, decode, encode
from replisync.errors import BrokenStream, CorruptEntry

# dumps(([], ...))[...]: an empty list, the tuple of the two, the end mark.
EMPTY_RENAMES = b"K\0\0\0\0@\0\0\0\x02Q"
# What a PostgreSQL primary sends for a serial that was never written, and what compaction leaves.
EMPTY_ENTRY = b"J" + EMPTY_RENAMES

# What we stored was within the limit that the operator set then. SQLite's own bound for a row.
_STORED = Limits(entry_bytes=10**9)


class KeyChange(NamedTuple):
    """One key's new value.

    keyname: devpi's name for the kind of key, such as STAGEFILE.
    back_serial: the serial that changed the key before this one; -1 where there is none.
    value: the new value; None for a deletion.
    """

    keyname: str
    back_serial: int
    value: Any


@dataclass(frozen=True, slots=True)
class ChangelogEntry:
    """What one serial changed.

    serial: its number.
    changes: the changes by relpath.
    data: the bytes to store.
    original: those of the primary, where others are stored.
    """

    serial: int
    changes: Mapping[str, KeyChange]
    data: bytes
    original: bytes | None = None


def digest(data: bytes) -> str:
    """Return the digest that histories are compared by, over the stored bytes of an entry."""
    return hashlib.sha256(data).hexdigest()


def same_entry(ours: bytes, theirs: bytes) -> bool:
    """Tell whether two stored entries say the same.

    Equal bytes are equal entries. Where they differ the decoded values decide: servers before 6.5.0
    encode anew what they send, and the order of a set is not stable.
    """
    if ours == theirs:
        return True
    try:
        return bool(decode(ours, _STORED).value == decode(theirs, _STORED).value)
    except RecursionError:
        return False


def parse_stored(
    serial: int, data: bytes, limits: Limits | None = None, kinds: frozenset[str] | None = None
) -> ChangelogEntry:
    """Return the entry that the stored bytes of one serial hold, ours or the primary's.

    limits: for the primary's; ours are taken as they are.
    kinds: see StreamParser.
    Raises CorruptEntry where they are no entry.
    """
    if not data:
        raise _corrupt(serial, "the primary has no entry at this serial")
    try:
        return _entry(serial, decode(data, limits or _STORED, kinds))
    except CorruptEntry as err:
        raise _corrupt(serial, err.why) from err


def parse_batch(body: bytes, first: int, limits: Limits | None = None) -> Iterator[ChangelogEntry]:
    """Yield the entries of a batched answer that was asked to begin at serial `first`.

    Raises CorruptEntry where it is no batch, or the next entry is not the one that follows.
    """
    try:
        batch = decode(body, limits).value
    except CorruptEntry as err:
        raise _corrupt(first, err.why) from err
    if batch.__class__ is not list:
        raise _corrupt(first, "an answer that is no list of entries")
    for due, item in enumerate(batch, first):
        if item.__class__ is not tuple or len(item) != 2 or item[0] != due:
            raise _corrupt(due, "an answer in which this serial does not follow")
        try:
            data = encode((item[1], []))
        except ValueError as err:
            raise _corrupt(due, str(err)) from err
        yield ChangelogEntry(due, _changes(due, item[1]), data)


class StreamParser:
    """Turn the chunks of a streaming answer into entries, each with the serial that is due.

    first: the serial that the answer was asked to begin with.
    kinds: the keynames of which the values are built; those of others are only checked and become
        wire.UNREAD. None builds all.
    """

    def __init__(self, first: int, limits: Limits | None = None, kinds: frozenset[str] | None = None) -> None:
        self._decoder = Decoder(limits, kinds)
        self._due = first
        self._announced = False
        self._failed: CorruptEntry | None = None  # after entries that were still good

    def feed(self, chunk: bytes) -> list[ChangelogEntry]:
        """Return the entries that `chunk` completes.

        Raises CorruptEntry where the stream is no sequence of serials and entries, or skips a serial;
        entries before the bad one are returned first, and the next call raises.
        """
        if self._failed is not None:
            raise self._failed
        entries: list[ChangelogEntry] = []
        try:
            self._feed(chunk, entries)
        except CorruptEntry as err:
            named = err if err.serial is not None else _corrupt(self._due, err.why)
            if not entries:
                raise named from err
            self._failed = named
        return entries

    def _feed(self, chunk: bytes, entries: list[ChangelogEntry]) -> None:
        for item in self._decoder.feed(chunk):
            if not self._announced:
                self._announce(item.value)
            elif item.value.__class__ is int:
                raise _corrupt(self._due, "an emptied row in the primary's changelog")
            else:
                entries.append(_entry(self._due, item))
                self._due += 1
                self._announced = False

    def _announce(self, value: Any) -> None:
        if value.__class__ is not int:
            raise _corrupt(self._due, "an entry without its serial")
        if value != self._due:
            raise _corrupt(self._due, f"serial {value} came instead")
        self._announced = True

    def finish(self) -> None:
        """Declare the end of the answer.

        Raises BrokenStream where it lies inside an entry; nothing of that entry was returned. Raises the
        CorruptEntry that was held back.
        """
        if self._failed is not None:
            raise self._failed
        try:
            self._decoder.check()
        except CorruptEntry as err:
            raise _corrupt(self._due, err.why) from err
        if self._announced or self._decoder.pending:
            raise BrokenStream(
                "cannot read the primary's changelog",
                "the answer ended in the middle of an entry",
                serial=self._due,
            )


def _entry(serial: int, decoded: Decoded) -> ChangelogEntry:
    value = decoded.value
    if value.__class__ is not tuple or len(value) != 2 or value[1].__class__ is not list:
        raise _corrupt(serial, "a value that is no changelog entry")
    changes = _changes(serial, value[0])
    if decoded.second < 0:
        raise _corrupt(serial, "an entry in which the list of renames cannot be found")
    return ChangelogEntry(serial, changes, decoded.raw[: decoded.second] + EMPTY_RENAMES)


def _changes(serial: int, changes: Any) -> Mapping[str, KeyChange]:
    if changes.__class__ is not dict:
        raise _corrupt(serial, "changes that are no mapping")
    for relpath, change in changes.items():
        if (
            relpath.__class__ is not str
            or change.__class__ is not tuple
            or len(change) != 3
            or change[0].__class__ is not str
            or change[1].__class__ is not int
        ):
            raise _corrupt(serial, "a change that is no (keyname, back serial, value)")
        changes[relpath] = KeyChange._make(change)
    return changes


def _corrupt(serial: int, why: str) -> CorruptEntry:
    return CorruptEntry("cannot read the primary's changelog", why, serial=serial)
