"""Temporary databases, for what is too much to be held in memory.

SQLite keeps one in memory up to a bound and on disk beyond, in a file of TMPDIR that nobody else sees
and that is gone with the process.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from replisync.errors import LocalFailure

_PRAGMAS = (
    "PRAGMA cache_size = -32768",  # KiB
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
)


def open_temporary(statements: Iterable[str]) -> sqlite3.Connection:
    """Return a new temporary database, for one thread at a time.

    statements: what makes its tables.
    Raises LocalFailure.
    """
    with translated():
        # The empty name is SQLite's for such a database.
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (*_PRAGMAS, *statements):
            database.execute(statement)
    return database


@contextmanager
def translated() -> Iterator[None]:
    """Translate what goes wrong with a temporary database into our error."""
    try:
        yield
    except sqlite3.Error as err:
        raise LocalFailure(
            "cannot use a temporary database",
            str(err),
            hint="make room where temporary files go, or name another folder in TMPDIR",
        ) from err
