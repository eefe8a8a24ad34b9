"""From entries to the actions that they demand.

A batch is applied as a whole: rows, keys and files as they are after its last entry. A file that a later
entry of the batch deletes is neither fetched nor dropped twice, and a key that changes often is written once.

No I/O here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from replisync.devpi.entries import ChangelogEntry
from replisync.devpi.keys import (
    FILE_KEYNAMES,
    USER_KEYNAME,
    Digest,
    expected_digest,
    hold_problem,
    is_live_file,
)


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that the target must have.

    relpath: its path below the files' folder, and on the primary.
    serial: the serial that demands it.
    digest: its digest; None if unknown.
    """

    relpath: str
    serial: int
    digest: Digest | None


@dataclass(slots=True)
class Batch:
    """The effect of a run of consecutive entries on a target.

    first, last: the serials, both included.
    entries: all of them, in order.
    keys: the kind and the last serial of each changed key.
    wanted: the files that must exist once the last serial is committed, by relpath.
    dropped: file keys that no longer have a file, with the serial that says so.
    pathless: file keys that can never be a path here, with the serial that says so and, if they demand a
        file, why they cannot, else "". Nothing is fetched, retained or dropped under such a name.
    users: the values of the changed user keys, by relpath.
    size: bytes of all stored entries.
    """

    first: int
    last: int
    entries: list[ChangelogEntry] = field(default_factory=list)
    keys: dict[str, tuple[str, int]] = field(default_factory=dict)
    wanted: dict[str, WantedFile] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    pathless: dict[str, tuple[int, str]] = field(default_factory=dict)
    users: dict[str, Any] = field(default_factory=dict)
    size: int = 0

    def add(self, entry: ChangelogEntry) -> None:
        """Append the next entry, whatever the names of its keys."""
        serial = entry.serial
        self.last = serial
        self.entries.append(entry)
        self.size += len(entry.data)
        keys = self.keys
        for relpath, (keyname, _back_serial, value) in entry.changes.items():
            keys[relpath] = (keyname, serial)
            if keyname in FILE_KEYNAMES:
                self.add_file(relpath, serial, value)
            elif keyname == USER_KEYNAME:
                self.users[relpath] = value

    @property
    def rows(self) -> list[tuple[int, bytes]]:
        """The serial and the stored bytes of each entry."""
        return [(entry.serial, entry.data) for entry in self.entries]

    def changed_file(self, relpath: str) -> int:
        """Return the serial that drops or demands a file of the batch."""
        return self.dropped[relpath] if relpath in self.dropped else self.wanted[relpath].serial

    def before(self, serial: int) -> "Batch | None":
        """Return the batch of the entries before a serial, or None."""
        if serial <= self.first:
            return None
        batch = Batch(self.first, self.first)
        for entry in self.entries[: serial - self.first]:
            batch.add(entry)
        return batch

    def add_file(self, relpath: str, serial: int, value: Any) -> None:
        """Note the demand of a file key's value from a serial on."""
        if problem := hold_problem(relpath):
            self.pathless[relpath] = serial, problem if is_live_file(value) else ""
            return
        file = wanted_file(relpath, serial, value)
        if file is not None:
            self.dropped.pop(relpath, None)
            self.wanted[relpath] = file
        else:
            self.wanted.pop(relpath, None)
            self.dropped[relpath] = serial


def wanted_file(relpath: str, serial: int, value: Any) -> WantedFile | None:
    """Return the file that a file key's value demands; None if it demands none, or has no valid path."""
    if not is_live_file(value) or hold_problem(relpath):
        return None
    return WantedFile(relpath, serial, expected_digest(relpath, value))


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of one transaction.

    entries: the number of entries.
    size: bytes of stored entries.
    files: the number of files that must be fetched before it.
    """

    entries: int = 1000
    size: int = 8 * 1024 * 1024
    files: int = 500


def batches(groups: Iterable[list[ChangelogEntry]], limits: BatchLimits | None = None) -> Iterator[Batch]:
    """Cut groups of entries, as they arrive, into batches within the limits.

    A batch may span several groups. An empty group means that nothing more has arrived for now: yield the
    entries so far, as at the end of `groups`, so that a small batch never waits for more.
    """
    limits = limits or BatchLimits()
    batch: Batch | None = None
    for group in groups:
        if not group and batch is not None:
            yield batch
            batch = None
        for entry in group:
            if batch is None:
                batch = Batch(entry.serial, entry.serial)
            batch.add(entry)
            if (
                len(batch.entries) >= limits.entries
                or batch.size >= limits.size
                or len(batch.wanted) >= limits.files
            ):
                yield batch
                batch = None
    if batch is not None:
        yield batch
