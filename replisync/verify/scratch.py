"""The content of the history for each key, in a temporary database.

So a history of any length is verified in limited memory, and nothing of the target is written.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from replisync.system import open_temporary, translated

# After all serials: no row of a standby that does not change meanwhile is too new.
EVER = 2**63 - 1

_CHUNK = 500

_TABLES = (
    # file: the digest of the file that must be there, "" for none, NULL for no file.
    "CREATE TABLE latest (key TEXT PRIMARY KEY, keyname TEXT, serial INTEGER, file TEXT) WITHOUT ROWID",
    "CREATE TABLE kv (key TEXT PRIMARY KEY, keyname TEXT, serial INTEGER) WITHOUT ROWID",
    "CREATE TABLE ledger (relpath TEXT PRIMARY KEY, serial INTEGER, digest TEXT) WITHOUT ROWID",
    "CREATE TABLE entry (serial INTEGER PRIMARY KEY, data BLOB)",
    "CREATE TABLE arrived (relpath TEXT PRIMARY KEY, serial INTEGER, digest TEXT, state TEXT, size INTEGER, "
    "reason TEXT)",
)


class Latest(NamedTuple):
    """The last content of the history for a key; file is None for no file."""

    key: str
    keyname: str
    serial: int
    file: str | None


class KeyDifference(NamedTuple):
    """A key whose row does not match the history; None for missing values."""

    key: str
    keyname: str | None
    serial: int | None
    found_keyname: str | None
    found_serial: int | None


class FileDifference(NamedTuple):
    """A file whose row in the ledger does not match the history; None for missing values."""

    relpath: str
    serial: int | None
    digest: str | None
    found_serial: int | None
    found_digest: str | None


class Scratch:
    """The temporary database; for one thread at a time.

    holds_key: returns whether the target's database certainly can hold a row of a key; see database.engine.
    """

    def __init__(self, holds_key: Callable[[str], bool]) -> None:
        self._holds_key = holds_key
        self._database = open_temporary((*_TABLES, "BEGIN"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()

    # The history.

    def serials_of(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the last serial of some keys so far; omit those without any."""
        found: dict[str, int] = {}
        wanted = list(keys)
        with translated():
            for start in range(0, len(wanted), _CHUNK):
                some = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, serial FROM latest WHERE key IN ({marks})"  # noqa: S608
                found.update(self._database.execute(query, some))
        return found

    def latest(self, key: str) -> Latest | None:
        """Return the last content of the history for a key so far."""
        rows = self._rows("SELECT key, keyname, serial, file FROM latest WHERE key = ?", key)
        return next(map(Latest._make, rows), None)

    def note(self, found: Iterable[Sequence[Any]]) -> None:
        """Add the content of entries, in their order: as Latest, or tuples of the same."""
        self._many("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?)", found)

    # The rows of the target.

    def note_keys(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows of the keys."""
        self._many("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", rows)

    def note_files(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows of the ledger: relpath, serial, digest."""
        self._many("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", rows)

    def key_differences(self, upto: int) -> Iterator[KeyDifference]:
        """Yield the keys whose rows do not match the history, ignoring changes after `upto`."""
        for row in self._rows(
            "SELECT l.key, l.keyname, l.serial, k.keyname, k.serial, k.key IS NULL FROM latest l "
            "LEFT JOIN kv k ON k.key = l.key WHERE k.key IS NULL OR k.serial IS NULL "
            "OR k.keyname IS NOT l.keyname OR (k.serial <> l.serial AND k.serial <= ?)",
            upto,
        ):
            if not row[5] or self._holds_key(row[0]):
                yield KeyDifference._make(row[:5])
        yield from map(
            KeyDifference._make,
            self._rows(
                "SELECT k.key, NULL, NULL, k.keyname, k.serial FROM kv k LEFT JOIN latest l ON l.key = k.key "
                "WHERE l.key IS NULL AND (k.serial IS NULL OR k.serial <= ?)",
                upto,
            ),
        )

    def file_differences(self, upto: int) -> Iterator[FileDifference]:
        """Yield the files whose rows in the ledger do not match the history, as `key_differences`."""
        yield from map(
            FileDifference._make,
            self._rows(
                "SELECT l.key, l.serial, l.file, g.serial, g.digest FROM latest l "
                "LEFT JOIN ledger g ON g.relpath = l.key WHERE l.file IS NOT NULL "
                "AND (g.relpath IS NULL OR (g.serial <= ? AND (g.serial <> l.serial OR g.digest <> l.file)))",
                upto,
            ),
        )
        yield from map(
            FileDifference._make,
            self._rows(
                "SELECT g.relpath, l.serial, NULL, g.serial, g.digest FROM ledger g "
                "LEFT JOIN latest l ON l.key = g.relpath WHERE l.file IS NULL AND g.serial <= ?",
                upto,
            ),
        )

    # Replacements of entries.

    def put_entry(self, serial: int, data: bytes) -> None:
        """Store an entry."""
        self._many("INSERT OR REPLACE INTO entry VALUES (?, ?)", [(serial, data)])

    def kept_entry(self, serial: int) -> bytes | None:
        """Return a stored entry, or None."""
        return next(
            (bytes(row[0]) for row in self._rows("SELECT data FROM entry WHERE serial = ?", serial)), None
        )

    def kept_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the stored entries, in order."""
        for serial, data in self._rows("SELECT serial, data FROM entry ORDER BY serial"):
            yield serial, bytes(data)

    # Files that were fetched for the ledger.

    def note_arrived(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows for the ledger: relpath, serial, digest, state, size, reason."""
        self._many("INSERT OR REPLACE INTO arrived VALUES (?, ?, ?, ?, ?, ?)", rows)

    def arrived(self) -> Iterator[tuple[str, int, str, str, int | None, str | None]]:
        """Yield the rows for the ledger."""
        yield from self._rows("SELECT * FROM arrived")

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with translated():
            yield from self._database.execute(query, values)

    def _many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with translated():
            self._database.executemany(statement, rows)
