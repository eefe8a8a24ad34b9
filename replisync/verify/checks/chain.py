"""The chain of back serials over the newest entries: each key leads from entry to entry."""

from collections.abc import Iterator

from replisync.devpi import EMPTY_ENTRY, KeyChange, parse_stored
from replisync.errors import CorruptEntry
from replisync.standby import audit
from replisync.verify.findings import BACK_SERIAL, DAMAGED_ENTRY, KEY, Finding
from replisync.verify.subject import Subject

# The number of entries to follow.
_NEWEST = 500

_NO_KINDS: frozenset[str] = frozenset()

_ODD = "if the primary's own entry says so, the primary's history is damaged: run devpi-fsck there"


def newest_chain(subject: Subject) -> Iterator[Finding]:
    """Yield the errors in the newest entries and in the rows of their keys."""
    rows = audit.newest(subject.store, _NEWEST)
    changes: list[tuple[int, dict[str, KeyChange]]] = []
    for serial, data in rows:
        if changes and serial != changes[-1][0] - 1:
            break  # as at a damaged one: entries above it may lead to a missing one
        try:
            changes.append((serial, dict(parse_stored(serial, data, kinds=_NO_KINDS).changes)))
        except CorruptEntry as err:
            yield Finding(DAMAGED_ENTRY, f"serial {serial}", serial, "an entry", err.why)
            # Entries below a hidden one cannot be judged.
            break
    subject.checked["newest_entries"] = len(changes)
    known = audit.keys_of(subject.store, {key for _, found in changes for key in found})
    lowest = changes[-1][0] if changes else 0
    # For each key, going down: where it was last seen, and the back serial that its entry names.
    due: dict[str, tuple[int, int]] = {}
    for serial, found in changes:
        for key, change in found.items():
            if key not in due:
                row = known.get(key)
                at = None if row is None else row.serial
                absent = row is None and not subject.store.holds_key(key)
                if not absent and (at is None or at < serial):
                    yield Finding(
                        KEY, key, serial, f"serial {serial}", "none" if at is None else f"serial {at}"
                    )
            elif due[key][1] != serial:
                yield wrong_back_serial(key, due[key][0], serial, due[key][1])
            due[key] = (serial, change.back_serial)
    # Compaction leaves empty entries in the place of old ones.
    empty = {serial for serial, data in rows if data == EMPTY_ENTRY}
    for key, (serial, named) in due.items():
        if named >= lowest and named not in empty:
            yield wrong_back_serial(key, serial, None, named)


def wrong_back_serial(key: str, serial: int, expected: int | None, named: int) -> Finding:
    """Return the finding for an entry with a wrong back serial."""
    due = (
        "an earlier entry with this key"
        if expected is None
        else f"serial {expected}"
        if expected >= 0
        else "none"
    )
    return Finding(BACK_SERIAL, key, serial, due, f"serial {named}" if named >= 0 else "none", _ODD)
