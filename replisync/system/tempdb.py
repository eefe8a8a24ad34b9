"""Temporary databases, for data too large for memory.

SQLite keeps one in memory up to a limit, and beyond it in an unnamed file in TMPDIR that ends with the
process.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from replisync.system.sqlite_errors import sqlite_error

_HINTS = {"": "free space in the folder for temporary files, or set TMPDIR to another folder"}

_PRAGMAS = (
    "PRAGMA cache_size = -32768",  # KiB
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
)


def open_temporary(statements: Iterable[str]) -> sqlite3.Connection:
    """Return a new temporary database, for one thread at a time.

    statements: SQL that creates its tables.
    Raises LocalFailure.
    """
    with translated():
        # SQLite creates a temporary database for the empty name.
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (*_PRAGMAS, *statements):
            database.execute(statement)
    return database


@contextmanager
def translated() -> Iterator[None]:
    """Translate sqlite3 errors of a temporary database into LocalFailure."""
    try:
        yield
    except sqlite3.Error as err:
        raise sqlite_error(err, "cannot use a temporary database", _HINTS) from err
