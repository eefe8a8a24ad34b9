"""A consistent copy of the database of somebody else's serverdir, and its changelog.

The source is never written to: it is copied through SQLite's online backup, which a devpi-server that
writes meanwhile hardly notices, and everything else is done with the copy.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from replisync.devpi import FILE_KEYNAMES, READ_KEYNAMES, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry, LocalFailure, PrimaryDamaged
from replisync.system import sqlite_error

# Pages that are copied before writers get their turn.
_PAGES = 2048

# So often a writer may make the copy begin again before it is made in one go.
_RESTARTS = 5

_BUSY_SECONDS = 60

# A group of rows that is handed on.
_GROUP_ROWS = 256
_GROUP_BYTES = 1024 * 1024

_HINTS = {
    "SQLITE_NOTADB": "",
    "SQLITE_CORRUPT": "",
    "SQLITE_FULL": "make room on the disk of the target",
    "SQLITE_IOERR": "make room on the disk of the target",
    "": "check its owner and permissions; where its server crashed, start it once",
}

# In the header of a database file: 2 where its journal is a write-ahead log.
_JOURNAL_BYTE = 18


class _BeganAgain(Exception):
    """A writer came in between too often."""


def take_snapshot(source: Path, target: Path, check: Callable[[], None]) -> None:
    """Copy a database, also one that is in use.

    check: called between pieces of work; raises where we are to stop.
    Raises LocalFailure or PrimaryDamaged.
    """
    with _translated(source):
        before = _stamp(source) if _is_at_rest(source) else None
        with closing(_open(source, immutable=before is not None)) as readable:
            _copy(readable, target, check)
        if before is not None and before != _stamp(source):
            # Somebody began to write while we took it for unused.
            with closing(_open(source)) as readable:
                _copy(readable, target, check)


def _is_at_rest(path: Path) -> bool:
    """Return whether a database with a write-ahead log is open nowhere.

    Then it is read without one: to open it the usual way would make a log in somebody else's folder.
    """
    with path.open("rb") as file:
        header = file.read(_JOURNAL_BYTE + 1)
    return header[_JOURNAL_BYTE:] == b"\2" and not os.path.exists(f"{path}-wal")


def _stamp(path: Path) -> tuple[int, int, bool]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, os.path.exists(f"{path}-wal")


def _open(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    how = "&immutable=1" if immutable else ""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{how}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


def _copy(source: sqlite3.Connection, target: Path, check: Callable[[], None]) -> None:
    left: int | None = None
    restarts = 0

    def progress(_status: int, remaining: int, _total: int) -> None:
        nonlocal left, restarts
        check()
        if left is not None and remaining > left:
            restarts += 1
        left = remaining
        if restarts > _RESTARTS:
            raise _BeganAgain

    def begin(pages: int) -> None:
        target.unlink(missing_ok=True)
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            # Whoever is interrupted takes a new one, so it need not be durable.
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = OFF")
            source.backup(copy, pages=pages, progress=progress if pages > 0 else None)

    try:
        begin(_PAGES)
    except _BeganAgain:
        begin(-1)


def forget_renames(path: Path) -> tuple[int, bytes]:
    """Make a server that starts on a copy leave the files alone; return its last serial and that entry.

    It would look for the files that the last entry renames, which are another server's.
    Raises PrimaryDamaged if there is no changelog, or no such entry.
    """
    with closing(Rows(path)) as rows:
        serial = rows.last_serial()
        data = rows.entry(serial, rows.row(serial)).data
    with _translated(path), closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE changelog SET data = ? WHERE serial = ?", (data, serial))
    return serial, data


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    attempted = f"cannot read the database {path}"
    try:
        yield
    except sqlite3.Error as err:
        raise sqlite_error(err, attempted, _HINTS, PrimaryDamaged) from err
    except OSError as err:
        raise LocalFailure(attempted, err.strerror or str(err)) from err


class Rows:
    """The changelog in a database of devpi that nobody writes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated(path):
            self._connection = _open(path)

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def last_serial(self) -> int:
        """Return the last serial; -1 where there is none.

        Raises PrimaryDamaged if there is no changelog.
        """
        with _translated(self._path):
            try:
                [(serial,)] = self._connection.execute("SELECT max(serial) FROM changelog")
            except sqlite3.OperationalError as err:
                raise PrimaryDamaged(
                    f"cannot read the database {self._path}", f"not a database of devpi-server: {err}"
                ) from err
        return -1 if serial is None else int(serial)

    def row(self, serial: int) -> bytes | None:
        """Return the bytes of an entry, or None."""
        query = "SELECT data FROM changelog WHERE serial = ?"
        with _translated(self._path):
            found = self._connection.execute(query, (serial,)).fetchone()
        return None if found is None else bytes(found[0])

    def groups(self, first: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield serials and bytes of the entries from a serial on, in groups."""
        query = "SELECT serial, data FROM changelog WHERE serial >= ? ORDER BY serial"
        group: list[tuple[int, bytes]] = []
        size = 0
        with _translated(self._path):
            for serial, data in self._connection.execute(query, (first,)):
                group.append((serial, data))
                size += len(data)
                if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                    yield group
                    group, size = [], 0
        if group:
            yield group

    def value(self, relpath: str) -> Any:
        """Return the latest value of a key of READ_KEYNAMES; None if it is deleted or was never there.

        Raises CorruptEntry.
        """
        query = "SELECT serial FROM kv WHERE key = ?"
        with _translated(self._path):
            found = self._connection.execute(query, (relpath,)).fetchone()
        if found is None:
            return None
        change = self.entry(found[0], self.row(found[0])).changes.get(relpath)
        return None if change is None else change.value

    def keys(self, keyname: str) -> list[str]:
        """Return the relpaths of all keys of one kind, of which there must be few."""
        with _translated(self._path):
            found = self._connection.execute("SELECT key FROM kv WHERE keyname = ?", (keyname,))
            return [relpath for (relpath,) in found]

    def file_keys(self) -> Iterator[tuple[int, str, ChangelogEntry]]:
        """Yield each key of a file, with its last serial before it and the entry of that behind it.

        Raises CorruptEntry if such an entry is missing or damaged.
        """
        query = f"""
            SELECT kv.serial, kv.key, changelog.data
            FROM kv LEFT JOIN changelog ON changelog.serial = kv.serial
            WHERE kv.keyname IN ({", ".join("?" * len(FILE_KEYNAMES))}) ORDER BY kv.serial, kv.key"""  # noqa: S608
        entry: ChangelogEntry | None = None
        with _translated(self._path):
            for serial, key, data in self._connection.execute(query, sorted(FILE_KEYNAMES)):
                if entry is None or entry.serial != serial:
                    entry = self.entry(serial, data)
                yield serial, key, entry

    @staticmethod
    def entry(serial: int, data: bytes | None) -> ChangelogEntry:
        """Return the entry that holds latest values of keys.

        data: its bytes, or None.
        Raises CorruptEntry.
        """
        try:
            return parse_stored(serial, data or b"", kinds=READ_KEYNAMES)
        except CorruptEntry as err:
            err.hint = "the latest values of keys are in it, so that devpi-export cannot read them either"
            raise
