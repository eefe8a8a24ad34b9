"""From the primary's commit to the target's commit: how far a follower is behind, change by change.

One loop watches both databases from outside and notes by one clock when a new serial can be read from each.
It looks at the file first and asks SQLite only after a change, so that its read locks hinder no commit.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.benchmarks.copies import NO_FILES, replica
from tests.benchmarks.stage import Stage
from tests.support.client import Client
from tests.support.runs import Background

_TICK_SECONDS = 0.0005
_SETTLE_SECONDS = 3
_DEADLINE_SECONDS = 60
_HEADER_BYTES = 100  # of a SQLite file; the change counter is in it


class Watch:
    """The last serial in one serverdir, read as soon as it changes."""

    def __init__(self, serverdir: Path) -> None:
        """Open the database."""
        database = serverdir / ".sqlite"
        self._fd = os.open(database, os.O_RDONLY)
        self._log = f"{database}-wal"
        self._connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=0)
        self._seen: object = None
        self._settled = False
        self.serial = -1

    def __enter__(self) -> Self:
        """Return the watch."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the database."""
        self._connection.close()
        os.close(self._fd)

    def look(self) -> int:
        """Return the last serial that can be read."""
        state = self._state()
        if state != self._seen:
            self._seen, self._settled = state, False
        if not self._settled:
            with suppress(sqlite3.OperationalError):  # locked: the commit is not over
                [(serial,)] = self._connection.execute("SELECT max(serial) FROM changelog").fetchall()
                # A state that was seen before a commit ended is looked at until the commit shows.
                self._settled = serial != self.serial
                self.serial = serial
        return self.serial

    def _state(self) -> object:
        header = os.pread(self._fd, _HEADER_BYTES, 0)
        with suppress(FileNotFoundError):
            log = os.stat(self._log)
            return header, log.st_size, log.st_mtime_ns
        return header, 0, 0


def follow_latencies(stage: Stage, serverdir: Path, count: int) -> list[float]:
    """Return the seconds between the two commits for `count` changes, with `replisync follow`."""
    args = ("--serverdir", serverdir, "--replica-keyfile", stage.keyfile, *NO_FILES)
    with Background(serverdir.with_suffix(".log"), "follow", *args) as follower:
        follower.wait_for_log("following")
        found = _measure(stage, serverdir, count)
        follower.stop()
    return found


def replica_latencies(stage: Stage, serverdir: Path, count: int) -> list[float]:
    """Return the same with devpi's own replica."""
    with replica(stage, serverdir, files=False):
        return _measure(stage, serverdir, count)


def _measure(stage: Stage, serverdir: Path, count: int) -> list[float]:
    numbers = iter(range(count))
    with (
        Watch(stage.primary.serverdir) as primary,
        Watch(serverdir) as target,
        Client(stage.primary.url) as client,
        ThreadPoolExecutor(1) as other,
    ):
        client.login()
        block = uuid.uuid4().hex

        def change() -> None:
            client.register("root/dev0", f"latency-{block}", f"1.{next(numbers)}")

        _until(target, primary.look())
        time.sleep(_SETTLE_SECONDS)
        return [_one(primary, target, other, change) for _ in range(count)]


def _one(primary: Watch, target: Watch, other: Executor, change: Callable[[], None]) -> float:
    time.sleep(random.uniform(0.03, 0.09))  # noqa: S311 - so that nothing falls into step
    serial = primary.look() + 1
    answered = other.submit(change)
    committed = _until(primary, serial)
    arrived = _until(target, serial)
    answered.result()
    return arrived - committed


def _until(watch: Watch, serial: int) -> float:
    """Return when the serial could be read."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while watch.look() < serial:
        if time.monotonic() > deadline:
            raise RuntimeError(f"serial {serial} did not arrive in {_DEADLINE_SECONDS} s")
        time.sleep(_TICK_SECONDS)
    return time.monotonic()
