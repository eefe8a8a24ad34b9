"""Reading what a serverdir's database holds, independently of replisync's own code."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devpi_server.fileutil import dumps, loads

FILE_KEYS = frozenset({"STAGEFILE", "PYPIFILE_NOMD5"})
NO_RENAMES = b"K\0\0\0\0@\0\0\0\2Q"

Change = tuple[str, int, Any]
Entry = tuple[dict[str, Change], list[str]]


@dataclass(frozen=True)
class History:
    """The changelog and the latest serials of one database."""

    changelog: dict[int, bytes]
    kv: dict[str, tuple[str, int]]

    @property
    def last_serial(self) -> int:
        """The last serial, -1 if there is none."""
        return max(self.changelog, default=-1)

    def changes(self, serial: int) -> dict[str, Change]:
        """Return the parsed changes of a serial: relpath to (keyname, back serial, value)."""
        return parse(self.changelog[serial])[0]

    def renames(self, serial: int) -> list[str]:
        """Return the parsed list of renames of a serial."""
        return parse(self.changelog[serial])[1]

    def latest(self, upto: int | None = None) -> dict[str, tuple[str, int, Any]]:
        """Replay the changelog: relpath to (keyname, serial, value) as of a serial."""
        latest = {}
        for serial in sorted(self.changelog):
            if upto is None or serial <= upto:
                for relpath, (keyname, _, value) in self.changes(serial).items():
                    latest[relpath] = (keyname, serial, value)
        return latest

    @cached_property
    def live_files(self) -> dict[str, dict[str, Any]]:
        """The values of all files that a complete serverdir has: relpath to meta data."""
        return {
            relpath: value
            for relpath, (keyname, _, value) in self.latest().items()
            if keyname in FILE_KEYS and value and value.get("last_modified")
        }


def read_history(serverdir: Path) -> History:
    """Read the SQLite database of a serverdir."""
    with closing(connect(serverdir)) as database:
        changelog = dict(database.execute("SELECT serial, data FROM changelog"))
        kv = {key: (name, serial) for key, name, serial in database.execute("SELECT * FROM kv")}
    return History(changelog, kv)


def connect(serverdir: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open the SQLite database of a serverdir, read-only unless told otherwise."""
    path = serverdir / ".sqlite"
    return sqlite3.connect(f"file:{quote(str(path))}?mode={'rw' if write else 'ro'}", uri=True, timeout=60)


def parse(raw: bytes) -> Entry:
    """Parse the bytes of an entry: its changes and its rename list."""
    entry: Entry = loads(raw)
    return entry


def serialize(entry: object) -> bytes:
    """Serialize a value as devpi-server does, which is not always as the bytes were before."""
    raw: bytes = dumps(entry)
    return raw


def strip_renames(raw: bytes) -> bytes:
    """Replace the rename list behind the changes by an empty one, every other byte as it is."""
    tail = serialize(parse(raw)[1])[:-1] + b"@\0\0\0\2Q"
    assert raw.endswith(tail), "an entry does not end with its own rename list"
    return raw[: -len(tail)] + NO_RENAMES


def files_below(root: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a folder."""
    for path in root.rglob("*"):
        if not path.is_dir():
            yield path.relative_to(root).as_posix()
