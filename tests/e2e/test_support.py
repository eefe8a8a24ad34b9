"""The harness itself: a judge that never says no proves nothing."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.content import ODD_NAMES, populate_basics, upload_hash_name
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import Entry, connect, parse, read_history, serialize, strip_renames
from tests.support.judge import Judge
from tests.support.oracle import (
    assert_equal_history,
    assert_files,
    assert_fsck,
    assert_replicated,
    assert_same_export,
    assert_serverdir,
)
from tests.support.proxy import Proxy
from tests.support.standby import Standby
from tests.support.waiting import wait_until_passes


@pytest.fixture
def twin(populated_serverdir: Path, tmp_path: Path) -> Path:
    """A perfect target, made by copying: the rename lists are emptied, `.nodeinfo` is a replica's."""
    target = copy_serverdir(populated_serverdir, tmp_path / "target")
    with closing(connect(target, write=True)) as database, database:
        rows = database.execute("SELECT serial, data FROM changelog").fetchall()
        stripped = [(strip_renames(data), serial) for serial, data in rows]
        database.executemany("UPDATE changelog SET data = ? WHERE serial = ?", stripped)
    uuid = json.loads((populated_serverdir / ".nodeinfo").read_text())["uuid"]
    nodeinfo = {"role": "replica", "uuid": "0" * 32, "masterurl": "http://x", "primary-uuid": uuid}
    (target / ".nodeinfo").write_text(json.dumps(nodeinfo))
    return target


def test_populated_server_has_every_kind_of_change(populated_serverdir: Path) -> None:
    """All key types, deletions, cached and never cached links are there, and the database is sound."""
    history = read_history(populated_serverdir)
    latest = history.latest()
    values = [value for _, _, value in latest.values()]
    assert len({name for name, _, _ in latest.values()}) == 9
    assert any(value is None for value in values)
    never_cached = [value for value in values if isinstance(value, dict) and "url" in value]
    assert any("last_modified" not in value for value in never_cached)
    assert any("last_modified" in value for value in never_cached)
    assert any(history.renames(serial) for serial in history.changelog)
    for name in ODD_NAMES:
        assert sum(path.endswith(f"/{name}") for path in history.live_files) == 2, name
    assert_fsck(populated_serverdir)


def test_oracle_accepts_a_perfect_target(populated: Server, twin: Path) -> None:
    """A copy with emptied rename lists passes every check against the running primary."""
    assert_replicated(populated, twin)


def flip_byte_of_file(target: Path) -> None:
    """Change one byte of a release file in place."""
    relpath = next(path for path in read_history(target).live_files if path.startswith("alice/dev/+f"))
    path = target / "+files" / relpath
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_file(target: Path) -> None:
    """Remove a release file."""
    relpath = next(path for path in read_history(target).live_files if path.startswith("alice/dev/+f"))
    (target / "+files" / relpath).unlink()


def add_file(target: Path) -> None:
    """Add a file that no key names."""
    (target / "+files" / "alice" / "stray").write_bytes(b"x")


@pytest.mark.parametrize("damage", [flip_byte_of_file, remove_file, add_file])
def test_oracle_rejects_damaged_files(
    populated_serverdir: Path, twin: Path, damage: Callable[[Path], None]
) -> None:
    """A flipped byte, a missing file and a stray file are found."""
    assert_files(populated_serverdir, twin)
    damage(twin)
    with pytest.raises(AssertionError, match="differences in files"):
        assert_files(populated_serverdir, twin)


CHANGED_ROW = "UPDATE changelog SET data = :data WHERE serial = :serial"


def change_value(entry: Entry) -> bytes:
    """Return the entry with another back serial in its first change."""
    changes, renames = entry
    relpath, (name, back, value) = next(iter(changes.items()))
    return serialize(({**changes, relpath: (name, back + 1, value)}, renames))


def reorder(entry: Entry) -> bytes:
    """Return the entry with equal values in another order."""
    changes, renames = entry
    return serialize((dict(reversed(changes.items())), renames))


def add_rename(entry: Entry) -> bytes:
    """Return the entry with a rename."""
    return serialize((entry[0], ["x-0123456789-tmp"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_value, "changes of serial 20"),
        (reorder, "equal values, but not the bytes"),
        (add_rename, "keeps the primary's renames"),
    ],
)
def test_oracle_rejects_changed_entries(
    populated_serverdir: Path, twin: Path, change: Callable[..., bytes], message: str
) -> None:
    """Another value, another encoding and a leftover rename are found."""
    assert_equal_history(populated_serverdir, twin)
    data = change(parse(read_history(twin).changelog[20]))
    execute(twin, CHANGED_ROW, {"data": data, "serial": 20})
    with pytest.raises(AssertionError, match=message):
        assert_equal_history(populated_serverdir, twin)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM changelog WHERE serial = 7", "serial 7 is missing"),
        ("INSERT INTO changelog VALUES (100000, x'00')", "serial 100000 is superfluous"),
        ("DELETE FROM kv WHERE key LIKE 'alice/%'", "is missing"),
        ("UPDATE kv SET serial = serial - 1 WHERE key = '.config'", "kv rows"),
        ("UPDATE kv SET keyname = 'USER' WHERE key = '.config'", "kv rows"),
        ("DROP INDEX kv_serial_idx", "kv_serial_idx"),
    ],
)
def test_oracle_rejects_changed_rows(
    populated_serverdir: Path, twin: Path, statement: str, message: str
) -> None:
    """Lost, added and changed rows are found."""
    execute(twin, statement)
    with pytest.raises(AssertionError, match=message):
        assert_equal_history(populated_serverdir, twin)


def test_oracle_rejects_an_unsound_server(twin: Path) -> None:
    """devpi-fsck fails for a flipped byte."""
    flip_byte_of_file(twin)
    with pytest.raises(AssertionError, match="devpi-fsck"):
        assert_fsck(twin)


def test_oracle_rejects_another_export(populated_serverdir: Path, twin: Path) -> None:
    """A flipped byte shows in the export too."""
    flip_byte_of_file(twin)
    with pytest.raises(AssertionError, match="other bytes"):
        assert_same_export(populated_serverdir, twin)


def test_what_judges_after_a_kill_finds_the_same(populated_serverdir: Path, twin: Path) -> None:
    """At the primary's serial, and before it; damaged entries, keys and files are found one by one."""
    judge, standby = Judge(populated_serverdir), Standby(twin, "", Path())
    execute(twin, "CREATE TABLE replisync_faults (relpath TEXT)")
    serial = judge.check(standby)
    assert serial == read_history(populated_serverdir).last_serial
    judge.check_nothing_more(standby)
    for statement, message in (
        ("UPDATE kv SET serial = serial - 1 WHERE key = '.config'", "kv row of .config"),
        ("INSERT INTO kv VALUES ('more', 'USER', 1)", "kv row of more"),
        ("UPDATE changelog SET data = x'00' WHERE serial = 20", "serial 20: other bytes"),
        ("DELETE FROM changelog WHERE serial = 7", "serials 0 to"),
        ("INSERT INTO changelog VALUES (7, x'00')", "serial 7: other bytes"),
        (f"INSERT INTO changelog VALUES ({serial + 1}, x'00')", "beyond the primary's"),  # noqa: S608
    ):
        execute(twin, statement)
        with pytest.raises(AssertionError, match=message):
            judge.check(standby)


def test_what_judges_after_a_kill_finds_damaged_files(populated_serverdir: Path, twin: Path) -> None:
    """A flipped byte, a missing file that no fault explains, and a stray file."""
    judge, standby = Judge(populated_serverdir), Standby(twin, "", Path())
    execute(twin, "CREATE TABLE replisync_faults (relpath TEXT)")
    flip_byte_of_file(twin)
    with pytest.raises(AssertionError, match="wrong sha256"):
        judge.check(standby)
    remove_file(twin)
    with pytest.raises(AssertionError, match="missing"):
        judge.check(standby)
    judge.check(standby, whole=False)
    add_file(twin)
    with pytest.raises(AssertionError, match="alice/stray"):
        judge.check_nothing_more(standby)


def test_oracle_rejects_a_serverdir_of_another_primary(twin: Path) -> None:
    """A target that remembers another primary is found."""
    with pytest.raises(AssertionError, match="another primary"):
        assert_serverdir(twin, "1" * 32)


def test_a_file_with_a_hash_sign_is_stored_but_not_served(primary: Server) -> None:
    """Document the one kind of name that no client can fetch."""
    with Client(primary.url) as client:
        client.login()
        client.create_index("root/dev")
        relpath = upload_hash_name(client, "root/dev")
        client.fetch(relpath, expect=404)
    assert (primary.serverdir / "+files" / relpath).is_file()


def execute(target: Path, statement: str, parameters: dict[str, object] | None = None) -> None:
    """Run one statement in a target's database."""
    with closing(connect(target, write=True)) as database, database:
        database.execute(statement, parameters or {})


def test_native_replica_behind_the_proxy_satisfies_the_oracle(
    primary: Server, tmp_path: Path, secretfile: Path
) -> None:
    """devpi's own replica passes all checks except for the bytes of entries, which it re-encodes."""
    populate_basics(primary)
    target = tmp_path / "replica"
    with Proxy(primary.url) as proxy:
        replica = Server(target, role="replica", primary_url=proxy.url, secretfile=secretfile)
        with replica.init():
            replica.wait_for_serial(primary.serial())
            wait_until_passes(lambda: assert_files(primary.serverdir, target), 60)
        assert_replicated(primary, target, reencoded=True)
        assert proxy.count("/+changelog/") > 0
        assert proxy.count("/basic/") > 0


def test_failing_start_shows_the_log(primary: Server, tmp_path: Path) -> None:
    """A server that ends at once fails with its own words."""
    with pytest.raises(AssertionError, match="contains no devpi-server data"):
        Server(tmp_path / "nothing").start()
    with pytest.raises(AssertionError, match="Address already in use"):
        Server(primary.serverdir, port=primary.port).start()
