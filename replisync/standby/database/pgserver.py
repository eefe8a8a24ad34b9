"""Checks of a PostgreSQL server: can devpi-server start on a standby in it, and who holds our lock?"""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pg8000.dbapi

from replisync.devpi.storage import Storage
from replisync.errors import TargetUnusable
from replisync.system.durable import write_file

# devpi_postgresql looks for its tables there, whatever the user's search path is (`_reflect_schema`).
_SCHEMA = "public"

# The machine's own id (machine-id(5)).
_MACHINE = Path("/etc/machine-id")

# How long to wait for the end of a session that was told to end.
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.05

_OWN_PID = "SELECT pg_backend_pid()"
_SESSION = """
    SELECT pid, CAST(backend_start AS text) FROM pg_stat_activity WHERE pid = pg_backend_pid()"""
_END = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = CAST(%s AS timestamptz) AND usename = current_user"""


def check_server(ask: Callable[[str], Any], storage: Storage) -> None:
    """Check that devpi-server can start on a standby in this database.

    ask: returns the only value that a statement yields.
    Raises TargetUnusable.
    """
    attempted = f"cannot use the target's database {storage}"
    encoding = ask("SHOW server_encoding")
    if encoding != "UTF8":
        raise TargetUnusable(
            attempted,
            f"its encoding is {encoding}, but names of files need UTF8",
            hint="create a database with `createdb -E UTF8 -T template0`, owned by the user",
        )
    schema = ask("SELECT current_schema()")
    # Without any schema, the creation of tables fails with the reason.
    if schema not in (None, _SCHEMA):
        raise TargetUnusable(
            attempted,
            f"new tables go into the schema {schema}, but devpi-server looks for them in {_SCHEMA}",
            hint=f"set the user's search_path to {_SCHEMA}, then run the command again",
        )


def check_own_session(
    connection: pg8000.dbapi.Connection, another: Callable[[], pg8000.dbapi.Connection], storage: Storage
) -> None:
    """Check that a connection has a session of its own, which keeps a lock between transactions.

    A pooler may give each transaction another session. A direct connection is told its session at the start.

    another: connects once more.
    Raises TargetUnusable.
    """
    cursor = connection.cursor()
    session = _value(cursor, _OWN_PID)
    connection.commit()
    told = bytes(getattr(connection, "_backend_key_data", b"") or b"")
    if int.from_bytes(told[:4]) == session:
        return
    # The session that was used last is the first to be given away again.
    other = another()
    try:
        _value(other.cursor(), _OWN_PID)
        kept = _value(cursor, _OWN_PID) == session
        connection.commit()
    finally:
        other.close()
    if not kept:
        raise TargetUnusable(
            f"cannot use the target's database {storage}",
            "a connection pooler in front of it shares sessions between transactions, which loses locks",
            hint="give the address of PostgreSQL itself, or use session pooling",
        )


@dataclass(frozen=True, slots=True)
class _Holder:
    """A session that holds the lock of the run.

    place: the serverdir that it serves, so that a copy of the serverdir is not taken for it.
    """

    pid: int
    started: str
    place: list[int | str]


class Sessions:
    """The record of the session that holds the lock of the run.

    A lost network leaves a session on the server, with its lock, until the server notices. A process that
    holds the lock of the serverdir may end it.

    path: of the record; None to keep none.
    lock: the file whose lock protects the serverdir.
    """

    def __init__(self, path: Path | None, lock: Path | None) -> None:
        self._path = path
        self._place: list[int | str] = []
        if lock is not None:
            with suppress(OSError):
                found = lock.stat()
                self._place = [socket.gethostname(), str(lock.resolve()), found.st_dev, found.st_ino]
                # A cloned machine has the others too.
                self._place.append(_MACHINE.read_text().strip())
        self._last: _Holder | None = None

    def note(self, connection: pg8000.dbapi.Connection) -> None:
        """Record the session of a connection, which holds the lock now."""
        cursor = connection.cursor()
        cursor.execute(_SESSION)
        pid, started = cursor.fetchone()
        connection.commit()
        self._last = _Holder(pid, started, self._place)
        if self._path is not None:
            # Without the record, a lost session is only waited for.
            with suppress(OSError):
                write_file(self._path, json.dumps(asdict(self._last)).encode())

    def end_former(self, connection: pg8000.dbapi.Connection, locked: Callable[[], bool]) -> bool:
        """End the recorded session, if it still runs; return whether its lock is ours then.

        locked: tries to lock.
        """
        former = self._last or self._read()
        if former is None or former.place != self._place or not self._place:
            return False
        cursor = connection.cursor()
        cursor.execute(_END, (former.pid, former.started))
        ended = bool(cursor.fetchall())
        connection.commit()
        deadline = time.monotonic() + _END_SECONDS
        while ended and time.monotonic() < deadline:
            if locked():
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _read(self) -> _Holder | None:
        try:
            found = json.loads(self._path.read_bytes()) if self._path else None
            return _Holder(int(found["pid"]), str(found["started"]), list(found["place"])) if found else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _value(cursor: Any, statement: str) -> Any:
    cursor.execute(statement)
    [value] = cursor.fetchone()
    return value
