"""Everything that goes wrong with a standby, with the level that finds it, and what a standby consists of."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from replisync.devpi.entries import EMPTY_RENAMES, parse_stored
from replisync.devpi.wire import encode
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.conftest import PostgresDatabase
from tests.edges.scenario import HISTORY, NOMD5, A, B, value
from tests.edges.standbys import Standby

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


def _both(*acts: Callable[[Standby], object]) -> Callable[[Standby], None]:
    """Return what does one thing after the other."""

    def do(standby: Standby) -> None:
        for act in acts:
            act(standby)

    return do


def _damage(level: Level, *found: str, storage: str = "") -> Callable[[Callable[[Standby], object]], Damage]:
    return lambda do: Damage(do, level, frozenset(found), storage)


def edited(standby: Standby, serial: int, edit: Callable[[dict[str, list[object]]], object]) -> None:
    """Write an entry of a standby anew after a change, as somebody would who knows the format."""
    [(data,)] = standby.database.read("SELECT data FROM changelog WHERE serial = ?", serial)
    changes = {path: list(change) for path, change in parse_stored(serial, bytes(data)).changes.items()}
    edit(changes)
    new = encode(({path: tuple(change) for path, change in changes.items()}, []))
    standby.database.write("UPDATE changelog SET data = ? WHERE serial = ?", new, serial)


def write_entry(standby: Standby, serial: int, data: bytes) -> None:
    standby.database.write("UPDATE changelog SET data = ? WHERE serial = ?", data, serial)


def flip(standby: Standby) -> None:
    content = standby.read_file(B)
    assert content
    standby.write_file(B, bytes([content[0] ^ 1]) + content[1:])


def _no_renames(standby: Standby) -> None:
    [(data,)] = standby.database.read("SELECT data FROM changelog WHERE serial = 1")
    changes = bytes(data).removesuffix(EMPTY_RENAMES)
    renames = encode(["+files/a-tmp"])[:-1] + b"@\0\0\0\2Q"
    write_entry(standby, 1, changes + renames)


def _stale(standby: Standby) -> None:
    (standby.root / ".replisync" / "tmp" / "left-over").write_bytes(b"half")


def put_folder(standby: Standby, name: str) -> None:
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


def _forget_retained(standby: Standby) -> None:
    for path in (standby.root / ".replisync/retained").iterdir():
        path.unlink()


def _administer(standby: Standby, statement: str) -> None:
    """Run a statement as the superuser of PostgreSQL."""
    assert isinstance(standby.database, PostgresDatabase)
    standby.database.administer(statement)


def _unready(standby: Standby, index: str, *rows: tuple[str, str, int]) -> None:
    """Replace rows of the keys while PostgreSQL does not keep one of its indexes up to date."""
    where = f"WHERE indexrelid = '{index}'::regclass"
    _administer(standby, f"UPDATE pg_index SET indisready = false {where}")  # noqa: S608
    for row in rows:
        if index == "kv_serial_idx":
            standby.database.write("DELETE FROM kv WHERE key = ?", row[0])
        standby.database.write("INSERT INTO kv VALUES (?, ?, ?)", *row)
    _administer(standby, f"UPDATE pg_index SET indisready = true {where}")  # noqa: S608


# Serial 2 brings B and a tox result, 3 that result again, 5 drops A, 6 brings it again.
DAMAGES = {
    "a flipped byte in a file": _damage(Level.FULL, kinds.FILE_DIGEST)(flip),
    "a truncated file": _damage(Level.FILES, kinds.FILE_SIZE)(lambda s: s.write_file(B, b"b" * 5)),
    "a missing file": _damage(Level.FILES, kinds.MISSING_FILE)(lambda s: s.remove_file(B)),
    "a folder in the place of a file": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(
        _both(lambda s: s.remove_file(B), lambda s: (s.root / "+files" / B).mkdir())
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
    "an entry that is none": _damage(Level.QUICK, kinds.DAMAGED_ENTRY)(
        lambda s: write_entry(s, 1, b"\xff\xff")
    ),
    "an emptied entry": _damage(Level.QUICK, kinds.DAMAGED_ENTRY)(lambda s: write_entry(s, 1, b"")),
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
        lambda s: put_folder(s, ".nodeinfo")
    ),
    "a folder in the place of the version": _damage(Level.QUICK, kinds.PERMISSIONS, kinds.STATE_VERSION)(
        lambda s: put_folder(s, ".serverversion")
    ),
    "a folder in the place of the events": _damage(Level.QUICK, kinds.PERMISSIONS, kinds.EVENT_SERIAL)(
        lambda s: put_folder(s, ".event_serial")
    ),
    "a folder among pieces of files": _damage(Level.QUICK, kinds.TEMPORARY)(
        lambda s: put_folder(s, ".replisync/tmp/folder")
    ),
    "a file in the place of the retained folder": _damage(Level.QUICK, kinds.PERMISSIONS)(
        _both(
            lambda s: shutil.rmtree(s.root / ".replisync/retained"),
            lambda s: (s.root / ".replisync/retained").write_text("x"),
        )
    ),
    "a folder with something in the place of a file": _damage(
        Level.FILES, kinds.MISSING_FILE, storage="sqlite"
    )(lambda s: put_folder(s, f"+files/{B}")),
    "a file in the place of a folder": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(_no_folder),
    "a link to a folder": _damage(Level.FULL, kinds.SUPERFLUOUS_FILE, storage="sqlite")(
        lambda s: (s.root / "+files/u/link").symlink_to(s.root / ".replisync")
    ),
    "a link in the place of a file": _damage(Level.FILES, kinds.MISSING_FILE, storage="sqlite")(
        _both(
            lambda s: (s.root / "+files" / B).rename(s.root / "moved"),
            lambda s: (s.root / "+files" / B).symlink_to(s.root / "moved"),
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
        _both(
            lambda s: s.remove_file(B),
            lambda s: s.database.write(
                "UPDATE replisync_files SET state = 'wanted', size = NULL WHERE relpath = ?", B
            ),
        )
    ),
    "a missing file that is said to be what nobody can have": _damage(Level.QUICK, kinds.MISSING_FILE)(
        _both(
            lambda s: s.remove_file(B),
            lambda s: s.database.write("UPDATE replisync_files SET state = 'absent' WHERE relpath = ?", B),
        )
    ),
    "a reason that is no text": _damage(Level.QUICK, kinds.ROW, storage="sqlite")(
        lambda s: s.database.write("UPDATE replisync_files SET reason = x'ff' WHERE relpath = ?", B)
    ),
    "retained files that are gone": _damage(Level.FILES, kinds.LEDGER)(_forget_retained),
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
        _both(
            lambda s: s.database.write("UPDATE replisync_timeline SET serial = 99 WHERE serial = ?", LAST),
            lambda s: s.database.write("DELETE FROM changelog WHERE serial = ?", LAST),
        )
    ),
    "no ledger": _damage(Level.QUICK, kinds.SCHEMA)(lambda s: s.database.write("DROP TABLE replisync_files")),
    "no list of runs": _damage(Level.QUICK, kinds.SCHEMA)(
        lambda s: s.database.write("DROP TABLE replisync_runs")
    ),
    "no changelog": _damage(Level.QUICK, kinds.SCHEMA)(lambda s: s.database.write("DROP TABLE changelog")),
    "a file in the place of the folder of all files": _damage(
        Level.QUICK, kinds.PERMISSIONS, storage="sqlite"
    )(_both(lambda s: shutil.rmtree(s.root / "+files"), lambda s: (s.root / "+files").write_text("x"))),
    "a file in the place of an index, and a wrong row": _damage(Level.QUICK, kinds.LEDGER, storage="sqlite")(
        _both(
            lambda s: shutil.rmtree(s.root / "+files/u/pypi"),
            lambda s: (s.root / "+files/u/pypi").write_text("x"),
            lambda s: s.database.write("UPDATE replisync_files SET serial = 3 WHERE relpath = ?", NOMD5),
        )
    ),
    "a file that everybody may write to, and whose size is no number": _damage(
        Level.QUICK, kinds.ROW, storage="sqlite"
    )(
        _both(
            lambda s: (s.root / "+files" / B).chmod(0o666),
            lambda s: s.database.write("UPDATE replisync_files SET size = 'abc' WHERE relpath = ?", B),
        )
    ),
    "an index that let a key in twice": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(
        _doubled("kv", 5000, A, "STAGEFILE", 2)
    ),
    "a key twice that its index never had": _damage(Level.FULL, kinds.DATABASE, storage="sqlite")(
        _both(*(_doubled("kv", rowid, "nobody's", "PROJECT", 2) for rowid in (5000, -5)))
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
        lambda s: _administer(
            s, "UPDATE pg_index SET indoption = '3' WHERE indexrelid = 'kv_serial_idx'::regclass"
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


def contents(standby: Standby) -> dict[str, Any]:
    """Return all that makes a standby what it is, whatever its database."""
    rows = {
        name: sorted(
            tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
            for row in standby.database.read(query)
        )
        for name, query in _QUERIES.items()
    }
    live: list[Any] = [relpath for relpath, _, _, state, _, _ in rows["files"] if state == "present"]
    names = (".nodeinfo", ".serverversion", ".event_serial")
    small = {name: (standby.root / name).read_bytes() for name in names}
    on_disk = sorted(
        path.relative_to(standby.root).as_posix()
        for folder in ("+files", ".replisync/tmp")
        for path in (standby.root / folder).rglob("*")
        if path.is_file()
    )
    return {**rows, **small, "live": {path: standby.read_file(path) for path in live}, "on disk": on_disk}


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


FOREIGN = "an entry of somebody else at the end"


def alter(standby: Standby, serial: int) -> None:
    """Change a value in an entry, which stays a good one by itself."""
    edited(standby, serial, lambda changes: next(iter(changes.values())).__setitem__(2, {"altered": True}))


def without_witnesses(standby: Standby) -> None:
    """Make it a standby of a version that kept no witnesses of entries."""
    standby.database.write("UPDATE replisync_timeline SET witnesses = NULL")
