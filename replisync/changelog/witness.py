"""The witness of an entry: a short digest of its stored bytes, kept with the commit that wrote them.

Compute it from bytes that come from the primary, or were just compared with the primary's, and never from
bytes that are only in our database: those may be damaged, and a witness must not bless damage.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

# In bytes: enough to detect damage. No size detects a forger, who would write the witness too.
SIZE = 8

# Placeholder for an entry without a witness.
UNKNOWN = bytes(SIZE)


def witness(data: bytes) -> bytes:
    """Return the witness of an entry, by its stored bytes."""
    return blake2b(data, digest_size=SIZE).digest()


def witnesses(entries: Iterable[bytes]) -> bytes:
    """Return the witnesses of the entries of a commit, one after the other in the order of serials."""
    return b"".join(map(witness, entries))


def kept_until(serial: int, last: int, found: bytes) -> bytes:
    """Return the remaining witnesses of a commit that ended at `last` and now ends at `serial`."""
    behind = (last - serial) * SIZE
    return found[: max(0, len(found) - behind)]


def by_serial(last: int, found: bytes | None) -> dict[int, bytes]:
    """Return the witnesses of a commit that ended at `last`, by serial; omit entries without one.

    found: as stored; None, or an invalid value, has no witnesses.
    """
    if found is None or len(found) % SIZE:
        return {}
    first = last + 1 - len(found) // SIZE
    pieces = (found[at : at + SIZE] for at in range(0, len(found), SIZE))
    return {serial: one for serial, one in enumerate(pieces, first) if one != UNKNOWN}


def replaced(before: int, last: int, found: bytes | None, new: Mapping[int, bytes]) -> bytes:
    """Return the witnesses of the commit of the serials after `before` up to `last`, some of them new."""
    known = {**by_serial(last, found), **new}
    return b"".join(known.get(serial, UNKNOWN) for serial in range(before + 1, last + 1))
