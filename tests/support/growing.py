"""The history of a server that goes on: only what is new is read, and each serial can be looked back to."""

from contextlib import closing
from pathlib import Path
from threading import RLock
from typing import Any

from tests.support.history import FILE_KEYS, Change, connect, parse, strip_renames

Latest = dict[str, tuple[str, int, Any]]


class GrowingHistory:
    """The changelog of a SQLite serverdir, as far as it was read; several threads may use it."""

    def __init__(self, serverdir: Path) -> None:
        """Begin with nothing."""
        self.stripped: list[bytes] = []
        self._changes: list[dict[str, Change]] = []
        self._latest: Latest = {}
        self._serverdir = serverdir
        self._lock = RLock()

    def read(self) -> int:
        """Read what is new; return the last serial."""
        with self._lock:
            with closing(connect(self._serverdir)) as database:
                query = "SELECT serial, data FROM changelog WHERE serial >= ? ORDER BY serial"
                rows = database.execute(query, [len(self.stripped)]).fetchall()
            for serial, data in rows:
                assert serial == len(self.stripped), f"the primary itself has no serial {len(self.stripped)}"
                self._add(data)
            return len(self.stripped) - 1

    def latest(self) -> Latest:
        """Return the newest state: relpath to (keyname, serial, value)."""
        with self._lock:
            self.read()
            return dict(self._latest)

    def latest_at(self, serial: int) -> Latest:
        """Return the state as of a serial that was read."""
        found: Latest = {}
        with self._lock:
            for number in range(serial + 1):
                self._put(found, number)
        return found

    def touched_after(self, serial: int) -> set[str]:
        """Return the keys that changed behind a serial, as far as was read."""
        with self._lock:
            return {relpath for changes in self._changes[serial + 1 :] for relpath in changes}

    @property
    def files_ever(self) -> int:
        """How often a file came or changed."""
        return sum(
            relpath in live_files({relpath: (keyname, 0, value)})
            for changes in self._changes
            for relpath, (keyname, _, value) in changes.items()
        )

    def _add(self, data: bytes) -> None:
        self.stripped.append(strip_renames(data))
        self._changes.append(parse(data)[0])
        self._put(self._latest, len(self.stripped) - 1)

    def _put(self, state: Latest, serial: int) -> None:
        for relpath, (keyname, _, value) in self._changes[serial].items():
            state[relpath] = (keyname, serial, value)


def live_files(latest: Latest) -> dict[str, dict[str, Any]]:
    """Return the values of the files that a complete serverdir in some state has."""
    return {
        relpath: value
        for relpath, (keyname, _, value) in latest.items()
        if keyname in FILE_KEYS and value and value.get("last_modified")
    }
