"""The meaning of sqlite3's errors."""

import sqlite3
from collections.abc import Mapping

from replisync.errors import LocalFailure, ReplisyncError

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def sqlite_error(
    err: BaseException | None,
    attempted: str,
    hints: Mapping[str, str],
    damaged: type[ReplisyncError] = LocalFailure,
) -> ReplisyncError:
    """Return our error for one of sqlite3.

    hints: by the beginning of the code's name, as SQLITE_IOERR of SQLITE_IOERR_WRITE; the first that matches
        counts, and "" matches all.
    damaged: the class for a file that is not, or no longer, a database.
    """
    name = error_name(err)
    kind = damaged if name.startswith(_DAMAGED) else LocalFailure
    hint = next((hint for start, hint in hints.items() if name.startswith(start)), "")
    return kind(attempted, str(err), hint=hint)


def error_name(err: BaseException | None) -> str:
    """Return the name of an error's extended code; "" for an error of the driver itself."""
    return str(getattr(err, "sqlite_errorname", "")) if isinstance(err, sqlite3.Error) else ""
