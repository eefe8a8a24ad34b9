"""Whether a standby, wherever a kill left it, could be promoted: judged without replisync's code."""

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from tests.support.growing import GrowingHistory, live_files
from tests.support.history import connect, files_below
from tests.support.pgstandby import PostgresStandby
from tests.support.standby import Standby

MOST_SHOWN = 8


class Reading(Protocol):
    """What is read of a standby that is at rest."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        ...

    def content(self, relpath: str) -> bytes | None:
        """Return a file; None where it is not there."""
        ...

    def names(self) -> set[str]:
        """Return the names of all files."""
        ...


class SqliteReading:
    """One in SQLite."""

    def __init__(self, serverdir: Path) -> None:
        self._serverdir = serverdir

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with closing(connect(self._serverdir)) as database:
            return database.execute(statement).fetchall()

    def content(self, relpath: str) -> bytes | None:
        """Return a file; None where it is not there."""
        path = self._serverdir / "+files" / relpath
        return path.read_bytes() if path.is_file() else None

    def names(self) -> set[str]:
        """Return the names of all files."""
        return set(files_below(self._serverdir / "+files"))


class PostgresReading:
    """One in PostgreSQL; the files, few and small, are read at once."""

    def __init__(self, standby: PostgresStandby) -> None:
        self._database = standby.database
        rows = standby.database.query("SELECT path, data FROM files")
        self._files = {path: bytes(data) for path, data in rows}

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return [tuple(row) for row in self._database.query(statement)]

    def content(self, relpath: str) -> bytes | None:
        """Return a file; None where it is not there."""
        return self._files.get(relpath)

    def names(self) -> set[str]:
        """Return the names of all files."""
        return set(self._files)


def reading_of(standby: Standby) -> Reading:
    """Return what reads a standby."""
    if isinstance(standby, PostgresStandby):
        return PostgresReading(standby)
    return SqliteReading(standby.serverdir)


class Judge:
    """Compares standbys with what the primary's changelog says."""

    def __init__(self, primary_dir: Path) -> None:
        self.history = GrowingHistory(primary_dir)
        self._primary_files = primary_dir / "+files"

    def check(self, standby: Standby, *, since: int = -1, whole: bool = True) -> int:
        """Check a standby that is at rest; return its serial.

        since: entries up to here were compared before.
        whole: whether the files are to be there too, as in all but a clone that is not complete.
        """
        reading = reading_of(standby)
        last = self.history.read()
        [(first, serial, count)] = reading.query("SELECT min(serial), max(serial), count(*) FROM changelog")
        if count == 0:
            return -1
        problems = [f"serials {first} to {serial}, {count} of them"] * (first != 0 or count != serial + 1)
        problems += [f"serial {serial} is beyond the primary's {last}"] * (serial > last)
        if not problems:
            problems += self._entries(reading, since) + self._keys(reading, serial)
            problems += self._files(reading, serial) if whole else []
        fail_on(problems, f"{standby.serverdir} at serial {serial}")
        return int(serial)

    def check_nothing_more(self, standby: Standby) -> None:
        """Check that a standby which has caught up has no file that no key names."""
        reading = reading_of(standby)
        superfluous = reading.names() - set(live_files(self.history.latest()))
        fail_on([f"{path}: no live key names it" for path in sorted(superfluous)], f"{standby.serverdir}")

    def _entries(self, reading: Reading, since: int) -> list[str]:
        rows = reading.query(f"SELECT serial, data FROM changelog WHERE serial > {since:d}")  # noqa: S608
        wanted = self.history.stripped
        return [f"serial {serial}: other bytes" for serial, data in rows if bytes(data) != wanted[serial]]

    def _keys(self, reading: Reading, serial: int) -> list[str]:
        rows = reading.query("SELECT key, keyname, serial FROM kv")
        found = {key: (keyname, number) for key, keyname, number in rows}
        latest = self.history.latest_at(serial)
        wanted = {key: (keyname, number) for key, (keyname, number, _) in latest.items()}
        return [
            f"kv row of {key}: {found.get(key)} instead of {wanted.get(key)}"
            for key in sorted(wanted.keys() | found.keys())
            if found.get(key) != wanted.get(key)
        ]

    def _files(self, reading: Reading, serial: int) -> list[str]:
        excused = {path for (path,) in reading.query("SELECT relpath FROM replisync_faults")}
        problems = []
        for relpath, meta in sorted(live_files(self.history.latest_at(serial)).items()):
            content = reading.content(relpath)
            if content is None:
                # It may have been deleted, or have come again, before it could be asked for.
                if relpath in excused or not (self._primary_files / relpath).is_file():
                    continue
                self.history.read()
                if relpath not in self.history.touched_after(serial):
                    problems.append(f"{relpath}: missing")
                continue
            hash_type, _, digest = meta.get("hash_spec", "").partition("=")
            if hash_type and hashlib.new(hash_type, content, usedforsecurity=False).hexdigest() != digest:
                problems.append(f"{relpath}: wrong {hash_type}")
        return problems


def fail_on(problems: list[str], subject: str) -> None:
    """Raise AssertionError where there are problems."""
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:MOST_SHOWN])
        raise AssertionError(f"{len(problems)} problems of {subject}:\n{shown}")
