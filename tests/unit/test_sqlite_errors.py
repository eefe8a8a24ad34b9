"""What the codes of sqlite3's errors mean, with their extended forms."""

import sqlite3

import pytest

from replisync.errors import LocalFailure, ReplisyncError, TargetUnusable
from replisync.system.sqlite_errors import sqlite_error

HINTS = {"SQLITE_CORRUPT": "restore it", "SQLITE_IOERR": "make room", "": "look at it"}


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        ("SQLITE_CORRUPT", TargetUnusable, "restore it"),
        ("SQLITE_CORRUPT_INDEX", TargetUnusable, "restore it"),
        ("SQLITE_NOTADB", TargetUnusable, "look at it"),
        ("SQLITE_IOERR_WRITE", LocalFailure, "make room"),
        ("SQLITE_BUSY_SNAPSHOT", LocalFailure, "look at it"),
        ("", LocalFailure, "look at it"),
    ],
)
def test_an_extended_code_means_what_its_beginning_does(
    code: str, kind: type[ReplisyncError], hint: str
) -> None:
    err = sqlite3.DatabaseError("broken")
    err.sqlite_errorname = code
    found = sqlite_error(err, "cannot use it", HINTS, TargetUnusable)
    assert type(found) is kind
    assert (found.why, found.hint) == ("broken", hint)
