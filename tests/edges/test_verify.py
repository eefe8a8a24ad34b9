"""A verification finds every damage at the level that promises it, and nothing in a standby that is right."""

import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from devpi_server import fileutil
from sqlalchemy import Connection

from replisync.devpi.entries import EMPTY_RENAMES, parse_stored
from replisync.devpi.wire import encode
from replisync.errors import CorruptEntry, TargetUnusable, WrongHistory
from replisync.session.settings import Settings
from replisync.standby.database.schema import note_version
from replisync.standby.opening import open_database
from replisync.verify import findings as kinds
from replisync.verify.checks.history import read_entry
from replisync.verify.repair.repair import repair
from replisync.verify.run import Level
from tests.edges.conftest import Database, PostgresDatabase
from tests.edges.scenario import HISTORY, NOMD5, A, B, ChainedPrimary, drop, put, value
from tests.edges.standbys import Standby, context, copied, made
from tests.fakes import Died, Trap
from tests.support.history import serialize
from tests.support.runs import run_here

LAST = sum(map(len, HISTORY)) - 1
# What a file is said to be that was not asked for.
LEFT = "state = 'wanted', size = NULL, reason = 'it was not asked for'"
EXTRA = "u/dev/+f/ddd/d/nobody-1.0.zip"


@dataclass(frozen=True)
class Damage:
    """Something that goes wrong with a standby.

    do: does it.
    level: the lowest that finds it.
    found: what is found there, as kinds.
    storage: the one that can have it; "" for both.
    """

    do: Callable[[Standby], object]
    level: Level
    found: frozenset[str]
    storage: str = ""


def _damage(level: Level, *found: str, storage: str = "") -> Callable[[Callable[[Standby], object]], Damage]:
    return lambda do: Damage(do, level, frozenset(found), storage)


def edited(standby: Standby, serial: int, edit: Callable[[dict[str, list[object]]], object]) -> None:
    """Write an entry of a standby anew after a change, as somebody would who knows the format."""
    [(data,)] = standby.database.read("SELECT data FROM changelog WHERE serial = ?", serial)
    changes = {path: list(change) for path, change in parse_stored(serial, bytes(data)).changes.items()}
    edit(changes)
    new = encode(({path: tuple(change) for path, change in changes.items()}, []))
    standby.database.write("UPDATE changelog SET data = ? WHERE serial = ?", new, serial)


def _row(standby: Standby, serial: int, data: bytes) -> None:
    standby.database.write("UPDATE changelog SET data = ? WHERE serial = ?", data, serial)


def _flip(standby: Standby) -> None:
    content = standby.read_file(B)
    assert content
    standby.write_file(B, bytes([content[0] ^ 1]) + content[1:])


def _no_renames(standby: Standby) -> None:
    [(data,)] = standby.database.read("SELECT data FROM changelog WHERE serial = 1")
    changes = bytes(data).removesuffix(EMPTY_RENAMES)
    renames = encode(["+files/a-tmp"])[:-1] + b"@\0\0\0\2Q"
    _row(standby, 1, changes + renames)


def _stale(standby: Standby) -> None:
    (standby.root / ".replisync" / "tmp" / "left-over").write_bytes(b"half")


def _folder(standby: Standby, name: str) -> None:
    """Put a folder with something in it in the place of a file."""
    (standby.root / name).unlink(missing_ok=True)
    (standby.root / name / "more").mkdir(parents=True)
    (standby.root / name / "more" / "kept").write_text("kept")


def _no_folder(standby: Standby) -> None:
    """Put a file in the place of the folder of a file."""
    folder = (standby.root / "+files" / B).parent
    shutil.rmtree(folder)
    folder.write_text("a file")


def _unindexed(standby: Standby) -> None:
    """Put a row into a table while its index is hidden from SQLite."""
    where = "WHERE name = 'kv_serial_idx'"
    with closing(sqlite3.connect(standby.root / ".sqlite", isolation_level=None)) as database:
        [(sql,)] = database.execute(f"SELECT sql FROM sqlite_master {where}").fetchall()  # noqa: S608
        database.execute("PRAGMA writable_schema = 1")
        # The index is taken for one of other rows.
        database.execute(f"UPDATE sqlite_master SET sql = ? {where}", (f"{sql} WHERE serial < 0",))  # noqa: S608
    with closing(sqlite3.connect(standby.root / ".sqlite", isolation_level=None)) as database:
        database.execute("DELETE FROM kv WHERE key = ?", (A,))
        database.execute("INSERT INTO kv VALUES (?, 'STAGEFILE', 6)", (A,))
        database.execute("PRAGMA writable_schema = 1")
        database.execute(f"UPDATE sqlite_master SET sql = ? {where}", (sql,))  # noqa: S608


def _doubled(table: str, rowid: int, *values: object) -> Callable[[Standby], None]:
    """Put a second row with the same key into a table while its unique index is hidden from SQLite."""

    def do(standby: Standby) -> None:
        index = f"sqlite_autoindex_{table}_1"
        with closing(sqlite3.connect(standby.root / ".sqlite", isolation_level=None)) as database:
            [(sql,)] = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,))
            [hidden] = database.execute("SELECT * FROM sqlite_master WHERE name = ?", (index,))
            database.execute("PRAGMA writable_schema = 1")
            database.execute("DELETE FROM sqlite_master WHERE name = ?", (index,))
            keyless = re.sub(r",?\s*PRIMARY KEY( \(\w+\))?", "", sql)
            database.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (keyless, table))
        with closing(sqlite3.connect(standby.root / ".sqlite", isolation_level=None)) as database:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")][: len(values)]
            marks = ", ".join("?" * (len(values) + 1))
            statement = f"INSERT INTO {table} (rowid, {', '.join(columns)}) VALUES ({marks})"  # noqa: S608
            database.execute(statement, (rowid, *values))
            database.execute("PRAGMA writable_schema = 1")
            database.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))
            database.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", hidden)

    return do


def _unready(standby: Standby, index: str, *rows: tuple[str, str, int]) -> None:
    """Replace rows of the keys while PostgreSQL does not keep one of its indexes up to date."""
    where = f"WHERE indexrelid = '{index}'::regclass"
    standby.database.administer(f"UPDATE pg_index SET indisready = false {where}")  # noqa: S608
    for row in rows:
        if index == "kv_serial_idx":
            standby.database.write("DELETE FROM kv WHERE key = ?", row[0])
        standby.database.write("INSERT INTO kv VALUES (?, ?, ?)", *row)
    standby.database.administer(f"UPDATE pg_index SET indisready = true {where}")  # noqa: S608


# Serial 2 brings B and a tox result, 3 that result again, 5 drops A, 6 brings it again.
DAMAGES = {
    "a flipped byte in a file": _damage(Level.FULL, kinds.FILE_DIGEST)(_flip),
    "a truncated file": _damage(Level.FILES, kinds.FILE_SIZE)(lambda s: s.write_file(B, b"b" * 5)),
    "a missing file": _damage(Level.FILES, kinds.MISSING_FILE)(lambda s: s.remove_file(B)),
    "a folder in the place of a file": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(
        lambda s: (s.remove_file(B), (s.root / "+files" / B).mkdir())
    ),
    "an extra file": _damage(Level.FULL, kinds.SUPERFLUOUS_FILE)(lambda s: s.write_file(EXTRA, b"extra")),
    "an extra file beside another": _damage(Level.FULL, kinds.SUPERFLUOUS_FILE)(
        lambda s: s.write_file(f"{B}.2", b"extra")
    ),
    "a stale temporary file of ours": _damage(Level.QUICK, kinds.TEMPORARY)(_stale),
    "a stale temporary file of devpi-server's": _damage(Level.FULL, kinds.TEMPORARY, storage="sqlite")(
        lambda s: s.write_file(f"{B}-{'ab' * 32}-tmp", b"half")
    ),
    "a key that is gone": _damage(Level.QUICK, kinds.KEY)(
        lambda s: s.database.write("DELETE FROM kv WHERE key = ?", "u/.config")
    ),
    "the key of a file that is gone": _damage(Level.QUICK, kinds.KEY, kinds.LEDGER)(
        lambda s: s.database.write("DELETE FROM kv WHERE key = ?", A)
    ),
    "a key at an older serial": _damage(Level.QUICK, kinds.KEY)(
        lambda s: s.database.write("UPDATE kv SET serial = 0 WHERE key = 'u/.config'")
    ),
    "a key beyond the end": _damage(Level.QUICK, kinds.KEY)(
        lambda s: s.database.write("UPDATE kv SET serial = ? WHERE key = 'u/.config'", LAST + 5)
    ),
    "a key that no entry has": _damage(Level.FULL, kinds.KEY)(
        lambda s: s.database.write("INSERT INTO kv VALUES ('u/other', 'PLUGIN', 3)")
    ),
    "an entry that is none": _damage(Level.QUICK, kinds.DAMAGED_ENTRY)(lambda s: _row(s, 1, b"\xff\xff")),
    "an emptied entry": _damage(Level.QUICK, kinds.DAMAGED_ENTRY)(lambda s: _row(s, 1, b"")),
    "an entry with another key": _damage(Level.QUICK, kinds.KEY)(
        lambda s: edited(s, 2, lambda changes: changes.__setitem__(f"{B}.x", changes.pop(B)))
    ),
    "an entry with another kind of a key": _damage(Level.FULL, kinds.OTHER_ENTRY)(
        lambda s: edited(s, 2, lambda changes: changes[B].__setitem__(0, "PYPIFILE"))
    ),
    "an entry with another digest of a file": _damage(Level.FULL, kinds.OTHER_ENTRY)(
        lambda s: edited(s, 2, lambda changes: changes[B].__setitem__(2, value(b"another")))
    ),
    "an entry without a file that a later one has": _damage(Level.QUICK, kinds.BACK_SERIAL)(
        lambda s: edited(s, 1, lambda changes: changes.__setitem__("u/x", changes.pop(A)))
    ),
    "an entry with renames": _damage(Level.FULL, kinds.DAMAGED_ENTRY)(_no_renames),
    "an entry missing in the middle": _damage(Level.QUICK, kinds.MISSING_ENTRY)(
        lambda s: s.database.write("DELETE FROM changelog WHERE serial = 2")
    ),
    "an entry missing at the end": _damage(Level.QUICK, kinds.POSITION, kinds.KEY, kinds.SEQUENCE)(
        lambda s: s.database.write("DELETE FROM changelog WHERE serial = ?", LAST)
    ),
    "an entry of somebody else at the end": _damage(Level.QUICK, kinds.POSITION, kinds.SEQUENCE)(
        lambda s: s.database.write("INSERT INTO changelog VALUES (?, ?)", LAST + 1, encode(({}, [])))
    ),
    "a wrong back serial": _damage(Level.QUICK, kinds.BACK_SERIAL)(
        lambda s: edited(s, 6, lambda changes: changes[A].__setitem__(1, 0))
    ),
    "the nodeinfo of another server": _damage(Level.QUICK, kinds.IDENTITY)(
        lambda s: (s.root / ".nodeinfo").write_text('{"uuid": "other", "role": "standalone"}')
    ),
    "no nodeinfo": _damage(Level.QUICK, kinds.IDENTITY)(lambda s: (s.root / ".nodeinfo").unlink()),
    "a nodeinfo that is none": _damage(Level.QUICK, kinds.IDENTITY)(
        lambda s: (s.root / ".nodeinfo").write_bytes(b"\0\0")
    ),
    "another version of the state": _damage(Level.QUICK, kinds.STATE_VERSION)(
        lambda s: (s.root / ".serverversion").write_text("5")
    ),
    "events that are ahead": _damage(Level.QUICK, kinds.EVENT_SERIAL)(
        lambda s: (s.root / ".event_serial").write_text(str(LAST + 2))
    ),
    "no serial of events": _damage(Level.QUICK, kinds.EVENT_SERIAL)(
        lambda s: (s.root / ".event_serial").unlink()
    ),
    "a version of the state with more behind it": _damage(Level.QUICK, kinds.STATE_VERSION)(
        lambda s: (s.root / ".serverversion").write_text("42-garbage")
    ),
    "a folder in the place of the nodeinfo": _damage(Level.QUICK, kinds.PERMISSIONS, kinds.IDENTITY)(
        lambda s: _folder(s, ".nodeinfo")
    ),
    "a folder in the place of the version": _damage(Level.QUICK, kinds.PERMISSIONS, kinds.STATE_VERSION)(
        lambda s: _folder(s, ".serverversion")
    ),
    "a folder in the place of the events": _damage(Level.QUICK, kinds.PERMISSIONS, kinds.EVENT_SERIAL)(
        lambda s: _folder(s, ".event_serial")
    ),
    "a folder among pieces of files": _damage(Level.QUICK, kinds.TEMPORARY)(
        lambda s: _folder(s, ".replisync/tmp/folder")
    ),
    "a file in the place of the retained folder": _damage(Level.QUICK, kinds.PERMISSIONS)(
        lambda s: (
            shutil.rmtree(s.root / ".replisync/retained"),
            (s.root / ".replisync/retained").write_text("x"),
        )
    ),
    "a folder with something in the place of a file": _damage(
        Level.FILES, kinds.MISSING_FILE, storage="sqlite"
    )(lambda s: _folder(s, f"+files/{B}")),
    "a file in the place of a folder": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(_no_folder),
    "a link to a folder": _damage(Level.FULL, kinds.SUPERFLUOUS_FILE, storage="sqlite")(
        lambda s: (s.root / "+files/u/link").symlink_to(s.root / ".replisync")
    ),
    "a link in the place of a file": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(
        lambda s: (
            (s.root / "+files" / B).rename(s.root / "moved"),
            (s.root / "+files" / B).symlink_to(s.root / "moved"),
        )
    ),
    "a file whose name is no text": _damage(Level.FULL, kinds.SUPERFLUOUS_FILE, storage="sqlite")(
        lambda s: (s.root / "+files/u/\udcff").write_text("x")
    ),
    "a file with another size in its row": _damage(Level.FILES, kinds.FILE_SIZE, storage="postgres")(
        lambda s: s.database.write("UPDATE files SET size = 3 WHERE path = ?", B)
    ),
    "a file without a size in the ledger": _damage(Level.FILES, kinds.LEDGER)(
        lambda s: s.database.write("UPDATE replisync_files SET size = NULL WHERE relpath = ?", B)
    ),
    "a file that is said to be wanted": _damage(Level.QUICK, kinds.LEDGER)(
        lambda s: s.database.write("UPDATE replisync_files SET state = 'wanted' WHERE relpath = ?", B)
    ),
    "a file that is said to be what nobody can have": _damage(Level.QUICK, kinds.LEDGER)(
        lambda s: s.database.write(
            "UPDATE replisync_files SET state = 'absent', size = NULL WHERE relpath = ?", B
        )
    ),
    "a missing file that is said to be wanted": _damage(Level.QUICK, kinds.MISSING_FILE)(
        lambda s: (
            s.remove_file(B),
            s.database.write("UPDATE replisync_files SET state = 'wanted', size = NULL WHERE relpath = ?", B),
        )
    ),
    "a missing file that is said to be what nobody can have": _damage(Level.QUICK, kinds.MISSING_FILE)(
        lambda s: (
            s.remove_file(B),
            s.database.write("UPDATE replisync_files SET state = 'absent' WHERE relpath = ?", B),
        )
    ),
    "a reason that is no text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE replisync_files SET reason = x'ff' WHERE relpath = ?", B)
    ),
    "retained files that are gone": _damage(Level.FILES, kinds.LEDGER)(
        lambda s: [path.unlink() for path in (s.root / ".replisync/retained").iterdir()]
    ),
    "a file that everybody may write to": _damage(Level.FILES, kinds.PERMISSIONS, storage="sqlite")(
        lambda s: (s.root / "+files" / B).chmod(0o666)
    ),
    "a folder that everybody may write to": _damage(Level.FILES, kinds.PERMISSIONS, storage="sqlite")(
        lambda s: (s.root / "+files" / B).parent.chmod(0o777)
    ),
    "a folder of files that its owner may not write to": _damage(
        Level.FILES, kinds.PERMISSIONS, storage="sqlite"
    )(lambda s: (s.root / "+files" / B).parent.chmod(0o500)),
    "a database that nobody may write": _damage(Level.QUICK, kinds.PERMISSIONS, storage="sqlite")(
        lambda s: (s.root / ".sqlite").chmod(0o444)
    ),
    "a folder that nobody may write": _damage(Level.QUICK, kinds.PERMISSIONS)(
        lambda s: (s.root / ".replisync" / "retained").chmod(0o500)
    ),
    "a file that nobody may read": _damage(Level.FILES, kinds.PERMISSIONS, storage="sqlite")(
        lambda s: (s.root / "+files" / B).chmod(0)
    ),
    "a sequence that is behind": _damage(Level.QUICK, kinds.SEQUENCE, storage="postgres")(
        lambda s: s.database.write("SELECT setval('changelog_serial_seq', 2)")
    ),
    "a sequence that is ahead": _damage(Level.QUICK, kinds.SEQUENCE, storage="postgres")(
        lambda s: s.database.write("SELECT nextval('changelog_serial_seq')")
    ),
    "a key whose serial is no number": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE kv SET serial = 'abc' WHERE key = ?", A)
    ),
    "a key that is no text": _damage(Level.FULL, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("INSERT INTO kv VALUES (CAST(x'752fff' AS TEXT), 'PLUGIN', 3)")
    ),
    "a key that is bytes": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE kv SET key = CAST(key AS BLOB) WHERE key = ?", B)
    ),
    "an entry that is text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE changelog SET data = CAST(data AS TEXT) WHERE serial = 2")
    ),
    "an entry that is a number": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE changelog SET data = 7 WHERE serial = 2")
    ),
    "an entry at a negative serial": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("INSERT INTO changelog VALUES (-3, ?)", encode(({}, [])))
    ),
    "a commit whose time is none": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("UPDATE replisync_timeline SET committed_at = 'soon' WHERE serial = 4")
    ),
    "witnesses that are text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE replisync_timeline SET witnesses = 'text' WHERE serial = 4")
    ),
    "a retained file that was found overdue at no time": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write(
            "INSERT INTO replisync_retained (stored_as, relpath, serial, retained_at, overdue_at) "
            "VALUES ('2-x', ?, 2, '2026-11-22T11:39:23.000Z', 'long')",
            B,
        )
    ),
    "a size that is no number": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE replisync_files SET size = 'abc' WHERE relpath = ?", B)
    ),
    "a state of a file that there is not": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("UPDATE replisync_files SET state = 'lost' WHERE relpath = ?", B)
    ),
    "a digest in the ledger that is no text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE replisync_files SET digest = x'ff' WHERE relpath = ?", B)
    ),
    "a path in the ledger that is no text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write(
            "INSERT INTO replisync_files VALUES (CAST(x'752fff' AS TEXT), 2, '', 'present', 3, NULL)"
        )
    ),
    "a row with more than one thing wrong": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write(
            "UPDATE replisync_files SET state = 'lost', size = 'abc' WHERE relpath = ?", B
        )
    ),
    "a row of the list of retained files with more than one thing wrong": _damage(
        Level.QUICK, kinds.ROW, storage="sqlite"
    )(lambda s: s.database.write("UPDATE replisync_retained SET retained_at = 'once', overdue_at = 'long'")),
    "a time that is an empty text": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("UPDATE replisync_retained SET retained_at = ''")
    ),
    "a size of a file that is not here and that is no number": _damage(
        Level.QUICK, kinds.ROW, storage="sqlite"
    )(lambda s: s.database.write("UPDATE replisync_files SET size = 'abc' WHERE state = 'wanted'")),
    "a key without a name": _damage(Level.FULL, kinds.KEY)(
        lambda s: s.database.write("INSERT INTO kv VALUES ('', 'PLUGIN', 3)")
    ),
    "a file without a name": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("INSERT INTO replisync_files VALUES ('', 3, '', 'present', 3, NULL)")
    ),
    "a path in the ledger with a NUL": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write(
            "UPDATE replisync_files SET relpath = 'u' || char(0) || 'v' WHERE relpath = ?", B
        )
    ),
    "a path of a move that leads out of the folder": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write(
            "INSERT INTO replisync_pending (relpath, serial, action) VALUES ('../.sqlite', 5, 'drop')"
        )
    ),
    "a staged file in another folder": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write(
            "INSERT INTO replisync_pending VALUES ('u/x', 5, 'replace', '../../.sqlite')"
        )
    ),
    "a move of a kind that there is not": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write(
            "INSERT INTO replisync_pending (relpath, serial, action) VALUES (?, 5, 'burn')", B
        )
    ),
    "a retained file in another folder": _damage(Level.QUICK, kinds.ROW)(
        lambda s: s.database.write("UPDATE replisync_retained SET stored_as = '../../.sqlite'")
    ),
    "a key at the highest of all serials": _damage(Level.QUICK, kinds.KEY, storage="sqlite")(
        lambda s: s.database.write("UPDATE kv SET serial = ? WHERE key = 'u/.config'", 2**63 - 1)
    ),
    "a commit that never was": _damage(Level.QUICK, kinds.POSITION)(
        lambda s: s.database.write("UPDATE replisync_timeline SET serial = ? WHERE serial = ?", 2**30, LAST)
    ),
    "a commit that never was, and no last entry": _damage(Level.QUICK, kinds.POSITION)(
        lambda s: (
            s.database.write("UPDATE replisync_timeline SET serial = 99 WHERE serial = ?", LAST),
            s.database.write("DELETE FROM changelog WHERE serial = ?", LAST),
        )
    ),
    "no ledger": _damage(Level.QUICK, kinds.SCHEMA)(lambda s: s.database.write("DROP TABLE replisync_files")),
    "no list of runs": _damage(Level.QUICK, kinds.SCHEMA)(
        lambda s: s.database.write("DROP TABLE replisync_runs")
    ),
    "no changelog": _damage(Level.QUICK, kinds.SCHEMA)(lambda s: s.database.write("DROP TABLE changelog")),
    "a file in the place of the folder of all files": _damage(
        Level.QUICK, kinds.PERMISSIONS, storage="sqlite"
    )(lambda s: (shutil.rmtree(s.root / "+files"), (s.root / "+files").write_text("x"))),
    "a file in the place of an index, and a wrong row": _damage(Level.QUICK, kinds.LEDGER, storage="sqlite")(
        lambda s: (
            shutil.rmtree(s.root / "+files/u/pypi"),
            (s.root / "+files/u/pypi").write_text("x"),
            s.database.write("UPDATE replisync_files SET serial = 3 WHERE relpath = ?", NOMD5),
        )
    ),
    "a file that everybody may write to, and whose size is no number": _damage(
        Level.QUICK, kinds.ROW, storage="sqlite"
    )(
        lambda s: (
            (s.root / "+files" / B).chmod(0o666),
            s.database.write("UPDATE replisync_files SET size = 'abc' WHERE relpath = ?", B),
        )
    ),
    "an index that let a key in twice": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(
        _doubled("kv", 5000, A, "STAGEFILE", 2)
    ),
    "a key twice that its index never had": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(
        lambda s: [_doubled("kv", rowid, "nobody's", "PROJECT", 2)(s) for rowid in (5000, -5)]
    ),
    "an index that let a file in twice": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(
        _doubled("replisync_files", 5000, B, 1, "", "absent")
    ),
    "no row of a file that is known not to be had": _damage(Level.FULL, kinds.LEDGER)(
        lambda s: s.database.write("DELETE FROM replisync_files WHERE state = 'wanted'")
    ),
    "a serial of the seed that cannot be": _damage(Level.QUICK, kinds.SOURCE)(
        lambda s: s.database.write("UPDATE replisync_source SET seed_serial = -4")
    ),
    "a clone that is said not to be complete": _damage(Level.QUICK, kinds.SOURCE)(
        lambda s: s.database.write("UPDATE replisync_source SET seed_finished = NULL")
    ),
    "a time of the seed that is none": _damage(Level.QUICK, kinds.SOURCE)(
        lambda s: s.database.write("UPDATE replisync_source SET seed_started = 'once'")
    ),
    "an entry that is kept as the primary's and is of no use": _damage(Level.QUICK, kinds.SOURCE)(
        lambda s: s.database.write("INSERT INTO replisync_tip VALUES (?, ?)", LAST, b"bogus")
    ),
    "a trigger of somebody's": _damage(Level.QUICK, kinds.SCHEMA, storage="sqlite")(
        lambda s: s.database.write("CREATE TRIGGER x AFTER INSERT ON kv BEGIN DELETE FROM changelog; END")
    ),
    "a view of somebody's": _damage(Level.QUICK, kinds.SCHEMA, storage="sqlite")(
        lambda s: s.database.write("CREATE VIEW x AS SELECT key FROM kv")
    ),
    "a trigger of somebody's in PostgreSQL": _damage(Level.QUICK, kinds.SCHEMA, storage="postgres")(
        lambda s: s.database.write(
            "CREATE TRIGGER x BEFORE UPDATE ON kv FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        )
    ),
    "an index of PostgreSQL that lacks a row": _damage(Level.FULL, kinds.DATABASE, storage="postgres")(
        lambda s: _unready(s, "kv_serial_idx", (A, "STAGEFILE", 6))
    ),
    "an index of PostgreSQL that let a key in twice": _damage(Level.FULL, kinds.DATABASE, storage="postgres")(
        lambda s: _unready(s, "kv_pkey", (A, "PROJECT", 2), ("nobody's", "USER", 2), ("nobody's", "USER", 3))
    ),
    "an index of PostgreSQL in another order": _damage(Level.FULL, kinds.DATABASE, storage="postgres")(
        lambda s: s.database.administer(
            "UPDATE pg_index SET indoption = '3' WHERE indexrelid = 'kv_serial_idx'::regclass"
        )
    ),
    "an index that lacks a row": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(_unindexed),
    "no index of devpi-server's": _damage(Level.QUICK, kinds.SCHEMA)(
        lambda s: s.database.write("DROP INDEX kv_serial_idx")
    ),
    "no table of keys": _damage(Level.QUICK, kinds.SCHEMA)(lambda s: s.database.write("DROP TABLE kv")),
    "a file that is to be dropped": _damage(Level.QUICK, kinds.PENDING_MOVE)(
        lambda s: s.database.write(
            "INSERT INTO replisync_pending (relpath, serial, action) VALUES (?, 5, 'drop')", B
        )
    ),
    "a file that the ledger does not have": _damage(Level.FULL, kinds.LEDGER)(
        lambda s: s.database.write("DELETE FROM replisync_files WHERE relpath = ?", B)
    ),
    "a file with another digest in the ledger": _damage(Level.FULL, kinds.LEDGER, kinds.FILE_DIGEST)(
        lambda s: s.database.write(
            "UPDATE replisync_files SET digest = ? WHERE relpath = ?", f"sha256={'0' * 64}", B
        )
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Standby:
    """A standby in SQLite to be copied."""
    return made(tmp_path_factory.mktemp("model") / "standby")


@pytest.fixture
def standby(database: Database, model: Standby, folder: Path) -> Standby:
    """A standby to do with as you like."""
    root = folder / "standby"
    if isinstance(database, PostgresDatabase):
        made = Standby(root, database, ChainedPrimary())
        made.make()
        return made
    return copied(model, root)


def contents(standby: Standby) -> dict[str, object]:
    """Return all that makes a standby what it is, whatever its database."""
    rows = {
        name: sorted(
            tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
            for row in standby.database.read(query)
        )
        for name, query in _QUERIES.items()
    }
    live = [relpath for relpath, _, _, state, _, _ in rows["files"] if state == "present"]
    names = (".nodeinfo", ".serverversion", ".event_serial")
    small = {name: (standby.root / name).read_bytes() for name in names}
    on_disk = sorted(
        path.relative_to(standby.root).as_posix()
        for folder in ("+files", ".replisync/tmp")
        for path in (standby.root / folder).rglob("*")
        if path.is_file()
    )
    return {**rows, **small, "live": {path: standby.read_file(path) for path in live}, "on disk": on_disk}


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


_QUERIES = {
    "changelog": "SELECT serial, data FROM changelog",
    "kv": "SELECT key, keyname, serial FROM kv",
    "files": "SELECT relpath, serial, digest, state, size, reason FROM replisync_files",
    "faults": "SELECT relpath, serial, kind, reason FROM replisync_faults",
    "pending": "SELECT relpath, serial, action FROM replisync_pending",
    "timeline": "SELECT serial FROM replisync_timeline",
}


def found(standby: Standby, level: Level) -> set[str]:
    """Return the kinds of what a verification finds."""
    report = standby.look(level)
    assert report.outcome == ("failed" if report.findings else "ok")
    assert report.total == len(report.findings)
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize("level", [Level.QUICK, Level.FILES, Level.FULL])
def test_nothing_is_found_in_a_standby_that_is_right(standby: Standby, level: Level) -> None:
    assert standby.look(level).findings == []


# A standby in PostgreSQL takes a second to make.
IN_BOTH = (
    "a flipped byte in a file",
    "a missing file",
    "an extra file",
    "the key of a file that is gone",
    "an entry at a negative serial",
)


@pytest.mark.parametrize(
    ("database", "name"),
    [("sqlite", name) for name, one in DAMAGES.items() if one.storage != "postgres"]
    + [("postgres", name) for name, one in DAMAGES.items() if one.storage == "postgres" or name in IN_BOTH],
    indirect=["database"],
)
def test_a_damage_is_found_at_the_level_that_promises_it(standby: Standby, name: str) -> None:
    damage = DAMAGES[name]
    damage.do(standby)
    for level in (Level.QUICK, Level.FILES, Level.FULL):
        if level < damage.level:
            assert found(standby, level) == set()
    expected = damage.found if standby.in_postgres else damage.found - {kinds.SEQUENCE}
    assert found(standby, damage.level) >= expected
    if damage.level < Level.FULL:
        assert found(standby, Level.FULL) >= expected


FOREIGN = "an entry of somebody else at the end"
MENDED = [name for name, one in DAMAGES.items() if one.storage != "postgres" and name != FOREIGN]


IN_POSTGRES = (
    "a flipped byte in a file",
    "a truncated file",
    "a missing file",
    "an extra file",
    "a file that is to be dropped",
    "a file with another size in its row",
    "a file without a size in the ledger",
    "a file that is said to be wanted",
    "a missing file that is said to be what nobody can have",
    "a time that is an empty text",
    "retained files that are gone",
    "the key of a file that is gone",
    "an emptied entry",
    "an entry missing in the middle",
    "an entry missing at the end",
    "a wrong back serial",
    "a sequence that is behind",
    "a sequence that is ahead",
    "no index of devpi-server's",
    "a file that the ledger does not have",
    "an entry at a negative serial",
    "a commit whose time is none",
    "a serial of the seed that cannot be",
    "a trigger of somebody's in PostgreSQL",
    "a path of a move that leads out of the folder",
    "a staged file in another folder",
    "a commit that never was",
    "no ledger",
    "no changelog",
    "an index of PostgreSQL that lacks a row",
    "an index of PostgreSQL that let a key in twice",
    "an index of PostgreSQL in another order",
)


@pytest.mark.parametrize("name", MENDED)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_damage_is_mended_and_the_standby_is_what_it_was(standby: Standby, name: str) -> None:
    before = contents(standby)
    DAMAGES[name].do(standby)
    report = standby.repair()
    assert report.findings == []
    assert report.repairs != []
    assert standby.look().findings == []
    assert contents(standby) == before


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_one_damage_after_the_other_is_mended_in_postgresql(standby: Standby) -> None:
    before = contents(standby)
    for name in IN_POSTGRES:
        damage = DAMAGES[name]
        damage.do(standby)
        report = standby.repair()
        assert {one.kind for one in report.repairs} >= damage.found, name
        assert report.findings == [], name
        assert contents(standby) == before, name
    assert standby.look().findings == []


# What is not simply mended.


@pytest.fixture
def one(model: Standby, folder: Path) -> Standby:
    """A standby in SQLite, where the database makes no difference."""
    return copied(model, folder / "one")


def test_what_nobody_names_is_put_aside_and_not_lost(one: Standby) -> None:
    one.write_file(EXTRA, b"extra")
    one.repair()
    [(name, serial)] = one.database.read(
        "SELECT stored_as, serial FROM replisync_retained WHERE relpath = ?", EXTRA
    )
    assert (one.root / ".replisync" / "retained" / name).read_bytes() == b"extra"
    assert serial == -1


def test_what_is_found_obeys_no_terminal(one: Standby) -> None:
    one.write_file("u/dev/+f/\x1b[31m", b"x")
    said = run_here("verify", "--serverdir", one.root, "--level", "full", code=8).stdout
    assert "\\x1b[31m" in said
    assert "\x1b" not in said


def test_leftovers_of_one_name_are_all_kept(one: Standby) -> None:
    for content in (b"first", b"second"):
        one.write_file(EXTRA, content)
        one.repair()
    names = one.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", EXTRA)
    assert {(one.root / ".replisync" / "retained" / name).read_bytes() for [name] in names} == {
        b"first",
        b"second",
    }


def _can_load(data: bytes) -> bool:
    try:
        fileutil.loads(data)
    except Exception:  # noqa: BLE001 - devpi's reader fails as it comes
        return False
    return True


def test_an_entry_that_devpi_cannot_load_is_damaged_whatever_its_value_is_of() -> None:
    """A flipped bit in each byte of an entry, in values too that replication never looks into."""
    changes = {
        "u/dev/p/1.0/.config": (
            "PROJVERSION",
            3,
            {"name": "p", "requires": ["a", "b"], "n": 1, "t": (1, None)},
        ),
        "u/dev/p/.versions": ("PROJVERSIONS", 3, {"1.0", "2.0"}),
    }
    data = encode((changes, []))
    # Without lists, of which devpi makes one as long as it is said to be, whatever follows.
    bits = 8 * (len(data) - len(EMPTY_RENAMES))
    unread = 0
    accepted = []
    for place in range(0, bits, 7):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        if flipped[place // 8] == ord("K") or _can_load(bytes(flipped)):
            continue
        unread += 1
        with suppress(CorruptEntry):
            accepted.append(read_entry(4, bytes(flipped)))
    assert accepted == []
    assert unread > len(data) // 2


def alter(standby: Standby, serial: int) -> None:
    """Change a value in an entry, which stays a good one by itself."""
    edited(standby, serial, lambda changes: next(iter(changes.values())).__setitem__(2, {"altered": True}))


def without_witnesses(standby: Standby) -> None:
    """Make it a standby of a version that kept no witnesses of entries."""
    standby.database.write("UPDATE replisync_timeline SET witnesses = NULL")


def test_an_altered_entry_is_found_beside_the_primarys_and_replaced_by_it(one: Standby) -> None:
    before = contents(one)
    without_witnesses(one)
    alter(one, 0)
    assert one.look(Level.FULL).findings == []
    [finding] = one.look(Level.PRIMARY).findings
    assert (finding.kind, finding.serial) == (kinds.OTHER_ENTRY, 0)
    assert one.repair(Level.PRIMARY).findings == []
    assert contents(one) == before
    assert one.look(Level.PRIMARY).findings == []


# What is found of them where they have no witness: the rows that do not fit to them.
ALTERED = {
    "an entry with another key": kinds.KEY,
    "an entry with another kind of a key": kinds.KEY,
    "an entry with another digest of a file": kinds.LEDGER,
}


@pytest.mark.parametrize("witnesses", [True, False])
@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_entry_is_not_believed_where_a_row_contradicts_it(
    one: Standby, name: str, witnesses: bool
) -> None:
    """Neither is the row: only the primary can tell, and until it does both stay as they are."""
    before = contents(one)
    if not witnesses:
        without_witnesses(one)
    DAMAGES[name].do(one)
    damaged = contents(one)
    report = one.repair(asks=False)
    expected = kinds.OTHER_ENTRY if witnesses else ALTERED[name]
    assert expected in {finding.kind for finding in report.findings}
    assert [each.remedy for each in report.findings if "--replica-keyfile" not in each.remedy] == []
    assert report.repairs == []
    assert contents(one) == damaged
    assert one.repair().findings == []
    assert contents(one) == before


def test_an_entry_that_differs_at_the_end_may_be_where_the_histories_part(one: Standby) -> None:
    """Nothing tells an altered last entry from a primary that was taken back and wrote another one."""
    before = contents(one)
    without_witnesses(one)
    alter(one, LAST)
    altered = contents(one)
    [finding] = one.repair(Level.PRIMARY).findings
    assert (finding.kind, finding.serial) == (kinds.OTHER_ENTRY, LAST)
    assert f"rewind --to-serial {LAST - 1}" in finding.remedy
    assert contents(one) == altered != before


def test_entries_are_not_taken_from_a_history_that_is_not_ours(one: Standby) -> None:
    without_witnesses(one)
    [(data,)] = one.database.read("SELECT data FROM changelog WHERE serial = 4")
    one.database.write("DELETE FROM changelog WHERE serial = 4")
    for serial in (3, 5):
        one.server.entries[serial] = one.server.entries[0]
    [finding] = [each for each in one.repair().findings if each.kind == kinds.MISSING_ENTRY]
    assert "not the primary's" in finding.remedy
    assert one.database.read("SELECT count(*) FROM changelog") == [(LAST,)]
    assert data


def test_a_primary_that_parted_long_ago_is_no_heap_of_findings(one: Standby) -> None:
    del one.server.entries[LAST:]
    with pytest.raises(WrongHistory) as caught:
        one.look(Level.PRIMARY)
    assert caught.value.details["fork_serial"] == LAST - 1


@pytest.mark.parametrize("differing", [3, 4, 5])
def test_a_primary_that_was_rewound_and_has_grown_past_us_is_no_list_of_findings(
    one: Standby, differing: int
) -> None:
    """Some of our last entries may have been altered; that all of them were is not believed."""
    for serial in range(LAST + 1 - differing, LAST + 1):
        one.server.entries[serial] = serialize(({f"other{serial}/.config": ("USER", -1, {})}, []))
    one.server.commit({})
    if differing < 4:
        assert {finding.kind for finding in one.look(Level.PRIMARY).findings} == {kinds.OTHER_ENTRY}
        return
    for act in (lambda: one.look(Level.PRIMARY), lambda: one.repair(level=Level.PRIMARY)):
        with pytest.raises(WrongHistory) as caught:
            act()
        assert caught.value.details["fork_serial"] == LAST - differing


def test_what_somebody_else_wrote_stays_and_is_told(one: Standby) -> None:
    DAMAGES[FOREIGN].do(one)
    before = contents(one)
    [finding] = one.repair().findings
    assert "find out which devpi-server wrote" in finding.remedy
    assert contents(one) == before


def test_what_somebody_else_wrote_is_adopted_where_the_primary_has_it_too(one: Standby) -> None:
    one.server.commit({})
    DAMAGES[FOREIGN].do(one)
    assert one.repair().findings == []
    assert one.look(Level.PRIMARY).findings == []
    one.follow()


def test_without_the_primary_files_and_entries_stay_as_they_are_and_the_rest_is_mended(one: Standby) -> None:
    one.remove_file(B)
    one.write_file(EXTRA, b"extra")
    _row(one, 1, b"")
    one.database.write("DELETE FROM kv WHERE key = ?", A)
    report = one.repair(asks=False)
    assert {each.kind for each in report.repairs} == {kinds.SUPERFLUOUS_FILE, kinds.KEY, kinds.LEDGER}
    assert {each.kind for each in report.findings} == {kinds.MISSING_FILE, kinds.DAMAGED_ENTRY}
    assert all("--replica-keyfile" in each.remedy for each in report.findings)
    again = one.look()
    assert {each.kind for each in again.findings} == {kinds.MISSING_FILE, kinds.DAMAGED_ENTRY}
    assert one.repair().findings == []


def test_a_file_that_the_primary_does_not_give_becomes_a_fault(one: Standby) -> None:
    one.remove_file(B)
    one.server.files[B] = 500
    [finding] = one.repair().findings
    assert (finding.kind, finding.subject) == (kinds.MISSING_FILE, B)
    assert "500" in finding.remedy
    report = one.look()
    assert report.findings == []
    assert (report.known["faults"], report.known["files_missing"]) == (2, 2)


def test_a_damaged_file_that_the_primary_does_not_give_is_served_to_nobody(one: Standby) -> None:
    """Neither by a server on the standby nor by one that it becomes; what was in its place is kept."""
    DAMAGES["a flipped byte in a file"].do(one)
    damaged = one.read_file(B)
    one.server.files[B] = 500
    [finding] = one.repair().findings
    assert (finding.kind, finding.subject) == (kinds.FILE_DIGEST, B)
    assert one.read_file(B) is None
    [(name,)] = one.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", B)
    assert (one.root / ".replisync" / "retained" / name).read_bytes() == damaged
    report = one.look()
    assert (report.findings, report.known["files_missing"]) == ([], 2)


def test_another_content_in_the_place_of_a_file_that_is_missing_is_found(one: Standby) -> None:
    one.database.write(f"UPDATE replisync_files SET {LEFT} WHERE relpath = ?", B)  # noqa: S608
    assert one.look().findings == []
    DAMAGES["a flipped byte in a file"].do(one)
    [finding] = one.look().findings
    assert (finding.kind, finding.subject) == (kinds.FILE_DIGEST, B)
    assert one.repair().findings == []
    assert one.look().known["files_missing"] == 1


def test_a_nodeinfo_that_the_database_contradicts_is_the_primarys_to_judge(one: Standby) -> None:
    before = (one.root / ".nodeinfo").read_bytes()
    one.database.write("UPDATE replisync_source SET primary_uuid = 'damaged'")
    [finding] = one.repair(asks=False).findings
    assert finding.kind == kinds.IDENTITY
    assert "--replica-keyfile" in finding.remedy
    assert (one.root / ".nodeinfo").read_bytes() == before


def test_a_folder_in_the_place_of_a_file_is_kept_with_all_that_is_in_it(one: Standby) -> None:
    for name in (".nodeinfo", ".replisync/tmp/folder", f"+files/{B}"):
        _folder(one, name)
    assert one.repair(Level.FILES).findings == []
    kept = (one.root / ".replisync" / "aside").glob("*/*/more/kept")
    assert {path.parent.parent.name for path in kept} == {".nodeinfo", "folder", Path(B).name}


def test_a_linked_folder_with_files_in_it_stays_and_is_told(one: Standby) -> None:
    """They would be gone with the link."""
    folder = one.root / "+files" / "u"
    folder.rename(one.root / "elsewhere")
    folder.symlink_to(one.root / "elsewhere")
    [finding] = [each for each in one.repair().findings if each.subject == "u"]
    assert "copy the folder" in finding.remedy
    assert one.read_file(B) == b"b" * 10


@pytest.mark.parametrize("level", [Level.FILES, Level.FULL])
def test_an_emptied_file_whose_size_nobody_knows_is_found_and_brought_again(
    one: Standby, level: Level
) -> None:
    one.write_file(B, b"")
    one.database.write("UPDATE replisync_files SET size = NULL WHERE relpath = ?", B)
    assert found(one, level) == {kinds.LEDGER if level == Level.FILES else kinds.FILE_DIGEST}
    assert one.repair(level).findings == []
    assert one.read_file(B) == b"b" * 10
    assert one.database.read("SELECT size FROM replisync_files WHERE relpath = ?", B) == [(10,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
@pytest.mark.parametrize("level", [Level.FILES, Level.FULL])
def test_what_the_owner_of_the_serverdir_cannot_read_is_given_back(one: Standby, level: Level) -> None:
    for path in (one.root, *one.root.rglob("*")):
        os.chown(path, 12345, 12345)
    file, folder = one.root / "+files" / A, (one.root / "+files" / B).parent
    for path, mode in ((file, 0o640), (folder, 0o755)):
        os.chown(path, 0, 0)
        path.chmod(mode)
    subjects = {A, str(folder.relative_to(one.root / "+files"))}
    assert {each.subject for each in one.look(level).findings} == subjects
    assert one.repair(level).findings == []
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (file, folder)} == {(12345, 12345)}
    os.chown(file, 0, 0)
    file.chmod(0o644)
    assert one.look(level).findings == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_what_the_superuser_makes_anew_is_its_owners(one: Standby) -> None:
    for path in (one.root, *one.root.rglob("*")):
        os.chown(path, 12345, 12345)
    small = [one.root / name for name in (".nodeinfo", ".serverversion", ".event_serial")]
    for path in small:
        path.unlink()
    folders = [one.root / ".replisync/tmp", one.root / ".replisync/retained"]
    for path in folders:
        os.chown(path, 0, 0)
    shutil.rmtree(one.root / "+files/u/pypi")
    names = {path.relative_to(one.root).as_posix() for path in folders}
    quick = one.look(Level.QUICK).findings
    assert {each.subject for each in quick if each.kind == kinds.PERMISSIONS} == names
    assert one.repair().findings == []
    made = [*small, *folders, *(one.root / "+files/u").rglob("*")]
    assert {path.stat().st_uid for path in made} == {12345}


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_the_superuser_may_work_in_somebody_elses_folder(one: Standby) -> None:
    os.chown(one.root, 12345, 12345)
    assert one.look(Level.QUICK).findings == []


def test_files_that_everybody_may_write_to_are_as_they_are_made_where_all_are_so(one: Standby) -> None:
    for path in (one.root / "+files", *(one.root / "+files").rglob("*")):
        path.chmod(0o777)
    assert one.look().findings == []


def test_a_pipe_in_the_place_of_a_small_file_is_not_waited_for(one: Standby) -> None:
    (one.root / ".serverversion").unlink()
    os.mkfifo(one.root / ".serverversion")
    assert found(one, Level.QUICK) == {kinds.STATE_VERSION, kinds.PERMISSIONS}


def test_a_pipe_in_the_place_of_the_nodeinfo_is_not_waited_for(one: Standby) -> None:
    (one.root / ".nodeinfo").unlink()
    os.mkfifo(one.root / ".nodeinfo")
    assert found(one, Level.QUICK) == {kinds.IDENTITY, kinds.PERMISSIONS}
    assert one.repair(Level.QUICK).findings == []


def test_a_schema_that_cannot_even_be_told_is_no_bug_of_ours(one: Standby) -> None:
    with closing(sqlite3.connect(one.root / ".sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = 1")
        sql = b"CREATE TABLE replisync_tip (id INTEGER \xff"
        database.execute(
            "UPDATE sqlite_master SET sql = CAST(? AS TEXT) WHERE name = 'replisync_tip'", (sql,)
        )
    for verb in (one.look, one.repair):
        with pytest.raises(TargetUnusable):
            verb()


@pytest.mark.parametrize("statement", ["DROP TABLE replisync_schema", "DELETE FROM replisync_schema"])
def test_the_version_of_our_tables_is_known_by_them(one: Standby, statement: str) -> None:
    before = contents(one)
    one.database.write(statement)
    with pytest.raises(TargetUnusable) as caught:
        one.look()
    assert "verify --repair" in caught.value.hint
    [repairs] = repair(one.serverdir, Level.FULL, Settings(), context()).repairs
    assert (repairs.kind, repairs.subject) == (kinds.SCHEMA, "replisync_schema")
    assert one.look().findings == []
    assert contents(one) == before


def test_the_version_is_written_with_its_table_or_not_at_all(one: Standby) -> None:
    one.database.write("DROP TABLE replisync_schema")

    def die(connection: Connection) -> None:
        assert note_version(connection)
        raise Died

    with open_database(one.serverdir, write=True) as store, pytest.raises(Died):
        store.write(die)
    assert one.database.read("SELECT name FROM sqlite_master WHERE name = 'replisync_schema'") == []
    assert len(repair(one.serverdir, Level.FULL, Settings(), context()).repairs) == 1
    assert one.look().findings == []


def test_a_table_of_ours_with_other_columns_stays_a_finding(one: Standby) -> None:
    one.database.write("ALTER TABLE replisync_files RENAME COLUMN digest TO digast")
    assert found(one, Level.FULL) == {kinds.SCHEMA}
    assert [finding.subject for finding in one.repair().findings] == ["replisync_files"]


def test_a_standby_that_lost_its_source_is_not_said_to_be_an_incomplete_clone(one: Standby) -> None:
    for statement in ("DELETE FROM replisync_source", "DROP TABLE replisync_source"):
        one.database.write(statement)
        with pytest.raises(TargetUnusable) as caught:
            one.look()
        assert "--reseed" in caught.value.hint


# While others write.


AHEAD = {
    "beside another": (A.replace("a-1.0", "a-1.1"), b"of any content", True),
    "a tox result": (f"{A}.toxresult-2.json", b"of any content", True),
    "of no digest": (NOMD5.replace("n-1.0", "n-2.0"), b"of any content", False),
}


@pytest.mark.parametrize(
    ("database", "name"),
    [("sqlite", name) for name in AHEAD] + [("postgres", "beside another")],
    indirect=["database"],
)
def test_a_file_that_came_before_a_kill_and_its_commit_is_no_finding(standby: Standby, name: str) -> None:
    """Whatever its path promises, and whoever ran since; it is one as soon as its serial has no such file."""
    relpath, content, _ = AHEAD[name]
    before = list(standby.server.entries)
    put(one=AHEAD[name])(standby.server)
    died = Trap(("files.place", 0), after=True)
    with pytest.raises(Died):
        standby.follow(trap=died)
    standby.server.trap = Trap()
    assert standby.read_file(relpath) == content
    assert standby.look().findings == []
    assert standby.repair(asks=False).findings == []
    assert standby.look().findings == []
    assert standby.read_file(relpath) == content
    standby.server.entries[:] = before
    standby.server.commit({})
    standby.follow()
    assert standby.look().findings == []
    standby.follow()  # which begins with what the commit left to do
    assert standby.read_file(relpath) is None
    assert standby.look().findings == []
    [(name,)] = standby.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", relpath)
    assert (standby.root / ".replisync" / "retained" / name).read_bytes() == content


def test_a_file_that_came_before_a_kill_is_committed_by_the_next_run(one: Standby) -> None:
    put(one=AHEAD["beside another"])(one.server)
    with pytest.raises(Died):
        one.follow(trap=Trap(("files.place", 0), after=True))
    one.server.trap = Trap()
    one.follow()
    assert one.look().findings == []
    assert one.database.read("SELECT * FROM replisync_pending") == []
    assert one.read_file(AHEAD["beside another"][0]) == b"of any content"


def test_a_file_that_no_serial_announced_is_superfluous_whatever_its_path_promises(one: Standby) -> None:
    content = b"left by nobody"
    digest = hashlib.sha256(content).hexdigest()
    one.write_file(f"u/dev/+f/{digest[:3]}/{digest[3:16]}/soon-1.0.zip", content)
    assert found(one, Level.FULL) == {kinds.SUPERFLUOUS_FILE}


def test_a_file_that_must_be_here_is_not_dropped_whatever_is_noted(one: Standby) -> None:
    DAMAGES["a file that is to be dropped"].do(one)
    one.follow()
    assert one.read_file(B) == b"b" * 10
    one.remove_file(B)
    assert found(one, Level.FILES) == {kinds.PENDING_MOVE, kinds.MISSING_FILE}


def test_a_damaged_row_leads_no_run_out_of_the_folder_of_files(one: Standby) -> None:
    DAMAGES["a path of a move that leads out of the folder"].do(one)
    with pytest.raises(TargetUnusable) as caught:
        one.follow()
    assert "verify --repair" in caught.value.hint
    assert (one.root / ".sqlite").is_file()


def test_moves_that_a_commit_demands_are_no_findings(one: Standby) -> None:
    """One that was killed between a commit and its moves leaves everything to the next run."""
    put(b=(B, b"another" * 5, True))(one.server)
    drop(A)(one.server)
    calls = Trap()
    copy = copied(one, one.root.with_name("counted"))
    copy.server = one.server
    copy.follow(trap=calls)
    commits = [number for number, name in enumerate(calls.names) if name == "store.commit"]
    for number in commits:
        killed = copied(one, one.root.with_name(f"killed-{number}"))
        killed.server = one.server
        with pytest.raises(Died):
            killed.follow(trap=Trap(number, after=True))
        assert killed.look().findings == []


# Whatever fails on the way.

TOGETHER = (
    "a flipped byte in a file",
    "an extra file",
    "a stale temporary file of ours",
    "a key at an older serial",
    "an entry missing in the middle",
    "an entry missing at the end",
    "a wrong back serial",
    "the nodeinfo of another server",
    "events that are ahead",
    "a file that is said to be wanted",
)


CHANGES = ("store.commit", "store.in_the_transaction", "files.place", "files.retain", "files.remove")


def damage_together(standby: Standby) -> None:
    """Damage a standby in many ways."""
    index = "an index of PostgreSQL" if standby.in_postgres else "an index"
    for name in (*TOGETHER, f"{index} that let a key in twice"):
        DAMAGES[name].do(standby)
    standby.remove_file(A)
    standby.database.write("DELETE FROM replisync_files WHERE relpath = ?", A)


def test_a_repair_that_dies_in_any_call_is_finished_by_the_next_one(one: Standby) -> None:
    before = contents(one)
    damage_together(one)
    undisturbed = Trap()
    whole = copied(one, one.root.with_name("whole"))
    assert whole.repair(trap=undisturbed).findings == []
    assert contents(whole) == before
    tried = 0
    for at, call in enumerate(undisturbed.names):
        if not call.startswith(CHANGES):
            continue  # as dying in the next call that changes something
        for after in (False, True):
            died = copied(one, one.root.with_name(f"died-{at}-{after}"))
            with pytest.raises(Died):
                died.repair(trap=Trap(at, after=after))
            assert died.repair().findings == []
            assert contents(died) == before, f"after a death in call {at}, {call}"
            tried += 1
    assert tried > 20


def test_a_repair_that_dies_while_a_file_cannot_be_had_leaves_no_damaged_one_to_be_served(
    one: Standby,
) -> None:
    DAMAGES["a flipped byte in a file"].do(one)
    damaged = one.read_file(B)
    one.server.files[B] = 500
    undisturbed = Trap()
    copied(one, one.root.with_name("whole")).repair(trap=undisturbed)
    tried = 0
    for at, call in enumerate(undisturbed.names):
        if not call.startswith(CHANGES):
            continue
        for after in (False, True):
            died = copied(one, one.root.with_name(f"died-{at}-{after}"))
            died.server = one.server
            with pytest.raises(Died):
                died.repair(trap=Trap(at, after=after))
            died.repair()
            assert died.read_file(B) is None, f"after a death in call {at}, {call}"
            names = died.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", B)
            assert [(died.root / ".replisync/retained" / name).read_bytes() for [name] in names] == [damaged]
            assert died.look().known["files_missing"] == 2
            tried += 1
    assert tried > 3


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_repair_in_postgresql_that_dies_around_a_commit_is_finished_by_the_next_one(
    standby: Standby,
) -> None:
    before = contents(standby)
    damage_together(standby)
    undisturbed = Trap()
    assert standby.repair(trap=undisturbed).findings == []
    commits = [at for at, call in enumerate(undisturbed.names) if call == "store.commit"]
    assert len(commits) > 3
    for at in commits:
        damage_together(standby)
        with pytest.raises(Died):
            standby.repair(trap=Trap(at, after=True))
        assert standby.repair().findings == []
        assert contents(standby) == before
