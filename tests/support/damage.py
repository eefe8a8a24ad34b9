"""Damage to the database of a stopped primary, as crashes, bad disks and attackers leave it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.history import connect, parse, serialize


def replace_row(serverdir: Path, serial: int, data: bytes) -> None:
    """Put other bytes in the place of an entry."""
    with closing(connect(serverdir, write=True)) as database, database:
        database.execute("UPDATE changelog SET data = ? WHERE serial = ?", (data, serial))


def remove_row(serverdir: Path, serial: int) -> None:
    """Remove an entry."""
    with closing(connect(serverdir, write=True)) as database, database:
        database.execute("DELETE FROM changelog WHERE serial = ?", (serial,))


def edit_row(serverdir: Path, serial: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the changes of an entry, and write them as devpi-server would."""
    with closing(connect(serverdir)) as database:
        [(data,)] = database.execute("SELECT data FROM changelog WHERE serial = ?", (serial,)).fetchall()
    changes, renames = parse(data)
    change(changes)
    replace_row(serverdir, serial, serialize((changes, renames)))


def cut_history(serverdir: Path, serial: int) -> None:
    """Remove everything behind a serial, as the restore of a backup from then would.

    Files of later serials are left; keys get the last serial that is left of them.
    """
    with closing(connect(serverdir, write=True)) as database, database:
        database.execute("DELETE FROM changelog WHERE serial > ?", (serial,))
        rows = database.execute("SELECT serial, data FROM changelog ORDER BY serial").fetchall()
        latest = {
            relpath: (keyname, number)
            for number, data in rows
            for relpath, (keyname, _, _) in parse(data)[0].items()
        }
        database.execute("DELETE FROM kv")
        values = [(relpath, *found) for relpath, found in latest.items()]
        database.executemany("INSERT INTO kv (key, keyname, serial) VALUES (?, ?, ?)", values)
    (serverdir / ".event_serial").write_text(str(serial + 1))


def damage_page(path: Path, name: str) -> None:
    """Overwrite a page of a table or an index of a database at rest, as a bad disk does."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(size,)] = database.execute("PRAGMA page_size")
        [(root,)] = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
