"""Entries a second out of the stream's bytes: our decoder and devpi's, over the same bytes in memory.

Both are pure computation in one thread, so seconds of CPU are counted: other processes do not matter.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO

from devpi_server.fileutil import dumps, load

from replisync.devpi.entries import StreamParser
from tests.benchmarks.dataset import Dataset

_CHUNK = 65_536  # what devpi-server sends at a time


def stream_of(dataset: Dataset) -> bytes:
    """Return the body with which devpi-server answers a request of the whole changelog."""
    with closing(sqlite3.connect(dataset.serverdir / ".sqlite")) as connection:
        rows = connection.execute("SELECT serial, data FROM changelog ORDER BY serial")
        return b"".join(dumps(serial) + data for serial, data in rows)


def ours(stream: bytes, kinds: frozenset[str] | None) -> float:
    """Return the entries a second of replisync, from chunks to checked entries.

    kinds: the keynames of which the values are built, as in StreamParser; None builds all.
    """
    parser = StreamParser(0, kinds=kinds)
    entries = 0
    begin = time.thread_time()
    for chunk in _chunks(stream):
        entries += len(parser.feed(chunk))
    parser.finish()
    return entries / (time.thread_time() - begin)


def devpis(stream: bytes) -> float:
    """Return the entries a second of devpi-server's own decoder, as its replica calls it."""
    source = BytesIO(stream)
    entries = 0
    begin = time.thread_time()
    while source.tell() < len(stream):
        load(source)
        load(source)
        entries += 1
    return entries / (time.thread_time() - begin)


def _chunks(stream: bytes) -> Iterator[bytes]:
    for start in range(0, len(stream), _CHUNK):
        yield stream[start : start + _CHUNK]
