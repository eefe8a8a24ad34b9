"""What must hold for any bytes at all.

`corpus.txt` keeps bytes, as base64, that reach most of the code; those that once broke it belong there too.

The first byte chooses a framing, the rest is what arrives. The outcome is an entry or a CorruptEntry: never
another exception, and never another outcome because the network cut the stream elsewhere. What we take for
a value, devpi's own code takes for the same one.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devpi_server.fileutil import loads

from replisync.changelog.plan import Batch
from replisync.devpi.entries import (
    EMPTY_RENAMES,
    ChangelogEntry,
    StreamParser,
    parse_batch,
    parse_stored,
    same_entry,
)
from replisync.devpi.keys import READ_KEYNAMES, fetch_problem
from replisync.devpi.wire import Limits, decode, encode
from replisync.errors import BrokenStream, CorruptEntry

CORPUS = Path(__file__).with_name("corpus.txt")

LIMITS = Limits(entry_bytes=16 * 1024)


def check(data: bytes) -> None:
    """Read some bytes in one of the ways in which they may arrive."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def check_stored(data: bytes) -> None:
    """As the entry of one serial."""
    outcomes: list[ChangelogEntry | None] = []
    for kinds in (None, READ_KEYNAMES):
        try:
            outcomes.append(parse_stored(7, data, LIMITS, kinds))
        except CorruptEntry:
            outcomes.append(None)
    entry, skimmed = outcomes
    # Values that nobody looks at are checked for less.
    assert skimmed is not None or entry is None
    if entry is not None and skimmed is not None:
        assert entry.data == skimmed.data
        assert set(entry.changes) == set(skimmed.changes)
        assert entry.data.endswith(EMPTY_RENAMES)
        assert parse_stored(7, entry.data, LIMITS).data == entry.data
        check_planned(entry)


def check_planned(entry: ChangelogEntry) -> None:
    """As a batch of one entry."""
    batch = Batch(entry.serial, entry.serial)
    try:
        batch.add(entry)
    except CorruptEntry:
        return
    for relpath in batch.wanted:
        assert not relpath.startswith("/")
        assert ".." not in relpath.split("/")
        assert "\0" not in relpath
        fetch_problem(relpath)


def check_value(data: bytes) -> None:
    """As one value, which devpi's code reads too."""
    try:
        decoded = decode(data, LIMITS)
    except CorruptEntry:
        return
    try:
        theirs = loads(data)
        again = encode(decoded.value)
    except (RecursionError, ValueError):
        return  # too deep for devpi, or a number that it could never have written
    assert same(decoded.value, theirs)
    assert same(decode(again).value, decoded.value)
    assert same_entry(data, data)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, although some numbers are not equal to themselves."""
    try:
        return bool(one == other) or repr(one) == repr(other) or "nan" in repr(one)
    except RecursionError:
        return True


def check_stream(data: bytes) -> None:
    """As a stream, in one piece and cut in two ways."""
    whole = streamed(data, len(data) + 1)
    assert streamed(data, 1) == whole
    assert streamed(data, 7) == whole


def streamed(data: bytes, size: int) -> tuple[list[tuple[int, bytes]], str]:
    """Return serials and bytes of the entries, and how it ended."""
    parser = StreamParser(3, LIMITS, READ_KEYNAMES)
    found: list[tuple[int, bytes]] = []
    try:
        for start in range(0, len(data), size):
            found += [(entry.serial, entry.data) for entry in parser.feed(data[start : start + size])]
        parser.finish()
    except (CorruptEntry, BrokenStream) as err:
        # Which of two complaints comes first may depend on how much is there; that there is one may not.
        return found, type(err).__name__
    return found, ""


def check_batch(data: bytes) -> None:
    """As an answer with many entries."""
    try:
        for entry in parse_batch(data, 3, LIMITS):
            check_planned(entry)
            assert parse_stored(entry.serial, entry.data).changes.keys() == entry.changes.keys()
    except CorruptEntry:
        pass


TARGETS: tuple[Callable[[bytes], None], ...] = (check_stored, check_value, check_stream, check_batch)


def corpus() -> list[bytes]:
    """Return the bytes that are kept."""
    return [base64.b64decode(line) for line in CORPUS.read_text().split()]
