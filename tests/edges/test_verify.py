"""A verification finds every damage at the level that promises it, and nothing in a standby that is right."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from replisync.changelog import EMPTY_RENAMES, parse_stored
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from replisync.wire import encode
from tests.edges.conftest import Database, PostgresDatabase, SqliteDatabase
from tests.edges.scenario import HISTORY, A, B, ChainedPrimary
from tests.edges.standbys import Standby

LAST = sum(map(len, HISTORY)) - 1
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


def _edited(standby: Standby, serial: int, edit: Callable[[dict[str, list[object]]], object]) -> None:
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
    "an entry with renames": _damage(Level.FULL, kinds.DAMAGED_ENTRY)(_no_renames),
    "an entry missing in the middle": _damage(Level.QUICK, kinds.MISSING_ENTRY, kinds.BACK_SERIAL)(
        lambda s: s.database.write("DELETE FROM changelog WHERE serial = 2")
    ),
    "an entry missing at the end": _damage(Level.QUICK, kinds.POSITION, kinds.KEY, kinds.SEQUENCE)(
        lambda s: s.database.write("DELETE FROM changelog WHERE serial = ?", LAST)
    ),
    "an entry of somebody else at the end": _damage(Level.QUICK, kinds.POSITION, kinds.SEQUENCE)(
        lambda s: s.database.write("INSERT INTO changelog VALUES (?, ?)", LAST + 1, encode(({}, [])))
    ),
    "a wrong back serial": _damage(Level.QUICK, kinds.BACK_SERIAL)(
        lambda s: _edited(s, 6, lambda changes: changes[A].__setitem__(1, 0))
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
    "no index of devpi-server's": _damage(Level.QUICK, kinds.SCHEMA)(
        lambda s: s.database.write("DROP INDEX kv_serial_idx")
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
    root = tmp_path_factory.mktemp("model") / "standby"
    standby = Standby(root, SqliteDatabase(root / ".sqlite"), ChainedPrimary())
    standby.make()
    return standby


@pytest.fixture
def standby(database: Database, model: Standby, folder: Path) -> Standby:
    """A standby to do with as you like."""
    root = folder / "standby"
    if isinstance(database, PostgresDatabase):
        made = Standby(root, database, ChainedPrimary())
        made.make()
        return made
    shutil.copytree(model.root, root)
    server = ChainedPrimary()
    for stage in HISTORY:
        for op in stage:
            op(server)
    return Standby(root, SqliteDatabase(root / ".sqlite"), server)


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
IN_BOTH = ("a flipped byte in a file", "a missing file", "an extra file", "the key of a file that is gone")


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
