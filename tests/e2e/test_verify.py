"""Verifying real standbys: at rest, damaged in every way at once, and while everything is in motion."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Event, Thread

import pytest

from tests.support import pgstandby
from tests.support.devpi import Server
from tests.support.disk import small_disk
from tests.support.history import History, connect, read_history, serialize
from tests.support.operations import Operations
from tests.support.oracle import assert_files, assert_replicated, compare_histories
from tests.support.pgstandby import PostgresStandby
from tests.support.postgres import Postgres
from tests.support.runs import run_apart, run_here
from tests.support.standby import Standby, changed, tree
from tests.support.upstream import Upstream

LEVELS = ("quick", "full", "files", "full")


def test_a_standby_with_everything_is_right_at_every_level(still: Server, standby: Standby) -> None:
    """It says so without the secret, as long as the primary is not asked, and remembers it."""
    before = tree(standby.serverdir / "+files")
    for level in ("quick", "files", "full"):
        report = json.loads(run_here("verify", *standby.own, "--level", level, "--json").stdout)
        assert report["findings"] == []
        assert (report["level"], report["outcome"], report["serial"]) == (level, "ok", still.serial())
    report = standby.verify("primary")
    assert report["checked"]["primary_entries"] == still.serial() + 1
    last = standby.status()["last_verify"]
    assert (last["level"], last["outcome"], last["serial"]) == ("primary", "ok", still.serial())
    assert changed(before, standby.serverdir / "+files") == []
    assert "--replica-keyfile" in run_here("verify", *standby.own, "--level", "primary", code=2).message


# Every kind of damage, all at once.


@pytest.fixture(params=["sqlite", "postgres"])
def damaged(
    request: pytest.FixtureRequest, tmp_path: Path, still: Server, cloned: Standby, secretfile: Path
) -> Standby:
    """A standby of `still` that has gone through everything."""
    if request.param == "sqlite":
        standby = cloned.copy(tmp_path / "standby")
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        standby = PostgresStandby(tmp_path / "standby", still.url, secretfile, postgres.database())
        standby.clone()
    damage(standby)
    return standby


def write(standby: Standby, statement: str, **values: object) -> None:
    """Write to a standby's database as somebody else."""
    if isinstance(standby, PostgresStandby):
        standby.database.query(statement, **values)
        return
    with closing(connect(standby.serverdir, write=True)) as database, database:
        database.execute(statement, values)


def damage(standby: Standby) -> None:
    """Do to a standby what can be done to one."""
    history = read_history_of(standby)
    hashed = [path for path in sorted(history.live_files) if "/+f/" in path and path.startswith("alice/")]
    flipped, truncated, missing = hashed[:3]
    in_database = isinstance(standby, PostgresStandby)
    files = standby.serverdir / "+files"
    if in_database:
        write(
            standby,
            "UPDATE files SET data = set_byte(data, 5, get_byte(data, 5) # 1) WHERE path = :p",
            p=flipped,
        )
        write(
            standby,
            "UPDATE files SET data = substring(data FROM 1 FOR 7), size = 7 WHERE path = :p",
            p=truncated,
        )
        write(standby, "DELETE FROM files WHERE path = :p", p=missing)
        write(standby, "INSERT INTO files VALUES ('alice/dev/+f/extra', 2, 'xy')")
        write(standby, "SELECT setval('changelog_serial_seq', 7)")
    else:
        content = bytearray((files / flipped).read_bytes())
        content[5] ^= 1
        (files / flipped).write_bytes(content)
        (files / truncated).write_bytes(b"7 bytes")
        (files / missing).unlink()
        (files / "alice/dev/+f/extra").write_bytes(b"xy")
        (files / f"{hashed[3]}-{'ab' * 32}-tmp").write_bytes(b"half")
        (files / hashed[4]).chmod(0)
    (standby.serverdir / ".replisync" / "tmp" / "stale").write_bytes(b"half")
    (standby.serverdir / ".event_serial").write_text("4000000")
    (standby.serverdir / ".serverversion").chmod(0o000)
    nodeinfo = {"uuid": "another", "role": "standalone"}
    (standby.serverdir / ".nodeinfo").write_text(json.dumps(nodeinfo))
    projects = [key for key, (name, _) in sorted(history.kv.items()) if name == "PROJVERSION"]
    write(standby, "DELETE FROM kv WHERE key = :k", k=projects[0])
    write(standby, "UPDATE kv SET serial = 0 WHERE key = :k", k=projects[1])
    middle = history.last_serial // 2
    write(standby, "DELETE FROM changelog WHERE serial = :s", s=middle)
    write(standby, "DELETE FROM changelog WHERE serial = :s", s=history.last_serial)
    write(standby, "UPDATE changelog SET data = :d WHERE serial = :s", d=b"\xff", s=middle + 4)
    serial = next(
        number
        for number in range(middle - 10, 0, -1)
        if any(back >= 0 for _, back, _ in history.changes(number).values())
    )
    changes = {
        key: (name, -1, value) if back >= 0 else (name, back, value)
        for key, (name, back, value) in history.changes(serial).items()
    }
    write(standby, "UPDATE changelog SET data = :d WHERE serial = :s", d=serialize((changes, [])), s=serial)


def read_history_of(standby: Standby) -> History:
    """Read a standby's history, wherever it is."""
    if isinstance(standby, PostgresStandby):
        return pgstandby.history(standby.database)
    return read_history(standby.serverdir)


EXPECTED = {
    *(
        "file-digest",
        "file-size",
        "missing-file",
        "superfluous-file",
        "temporary-file",
        "key",
        "missing-entry",
    ),
    *("damaged-entry", "other-entry", "position", "identity", "event-serial", "permissions"),
}


def test_every_damage_is_found_and_mended_and_a_second_look_is_clean(
    still: Server, damaged: Standby, tmp_path: Path
) -> None:
    """With everything damaged at once; then it is its primary again, and a server when it is promoted."""
    in_database = isinstance(damaged, PostgresStandby)
    before = run_here("verify", *damaged.own, "--level", "full", "--json", code=8)
    said = json.loads(before.stdout)
    assert set(said["findings_by_kind"]) >= EXPECTED | ({"sequence"} if in_database else set())
    assert (said["outcome"], said["code"]) == ("failed", 8)
    assert "--repair" in said["hint"]
    report = damaged.verify("full", "--repair")
    assert report["outcome"] == "repaired"
    assert {one["kind"] for one in report["findings"]} >= EXPECTED
    assert all(one["repaired"] for one in report["findings"])
    again = damaged.verify("primary", "--repair")
    assert (again["outcome"], again["findings"]) == ("ok", [])
    compare_histories(read_history(still.serverdir), read_history_of(damaged), still.serial())
    if isinstance(damaged, PostgresStandby):
        assert pgstandby.sequence(damaged.database) == still.serial() + 1
        pgstandby.assert_fsck(damaged.serverdir, damaged.database.spec, tmp_path)
    else:
        assert_replicated(still, damaged.serverdir, export=False)
    damaged.catchup()
    damaged.promote()
    assert run_here("verify", *damaged.own, "--level", "full").code == 0
    assert "never written again" in run_here("verify", *damaged.own, "--repair", code=6).message


def test_a_repair_waits_for_nobody_and_leaves_a_follower_alone(still: Server, standby: Standby) -> None:
    """While somebody follows, it says so and changes nothing."""
    file = next((standby.serverdir / "+files").rglob("*.whl"))
    file.write_bytes(b"damaged")
    with standby.follow() as follower:
        assert "another replisync" in run_here("verify", *standby.own, "--repair", code=6).message
        assert file.read_bytes() == b"damaged"
        assert standby.verify("files", code=8)["findings"][0]["kind"] == "file-size"
        follower.stop()
    assert standby.verify("files", "--repair")["outcome"] == "repaired"
    assert_replicated(still, standby.serverdir, export=False, fsck=False)


def test_files_are_mended_from_this_machine_without_the_primary(standby: Standby, cloned: Standby) -> None:
    """A copy of the standby has them; without one they are missing, and it is said how they can be had."""
    for path in list((standby.serverdir / "+files" / "alice").rglob("*.whl")):
        path.unlink()
    said = json.loads(run_here("verify", *standby.own, "--repair", "--json", code=8).stdout)
    assert {one["kind"] for one in said["findings"]} == {"missing-file"}
    assert "--replica-keyfile" in said["hint"]
    search = ("--replica-file-search-path", cloned.serverdir)
    run_here("verify", *standby.own, "--repair", *search)
    assert_files(cloned.serverdir, standby.serverdir)


def test_a_standby_that_nobody_may_write_is_verified_too(cloned: Standby, tmp_path: Path) -> None:
    """As a snapshot is that somebody mounted; the result is not remembered there."""
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        copy = cloned.copy(disk.root / "standby")
        disk.protect()
        try:
            report = json.loads(run_here("verify", *copy.own, "--json").stdout)
        finally:
            disk.unprotect()
        assert report["outcome"] == "ok"
        assert copy.status()["last_verify"] == cloned.status()["last_verify"]


@pytest.fixture(params=["sqlite", "postgres"])
def moving(request: pytest.FixtureRequest, tmp_path: Path, primary: Server, secretfile: Path) -> Standby:
    """A standby of a primary that is about to change."""
    if request.param == "sqlite":
        return Standby(tmp_path / "standby", primary.url, secretfile)
    postgres: Postgres = request.getfixturevalue("postgres")
    return PostgresStandby(tmp_path / "standby", primary.url, secretfile, postgres.database())


@pytest.fixture
def operations(primary: Server, upstream: Upstream) -> Iterator[Operations]:
    """What may happen to the primary."""
    operations = Operations(primary, upstream, Random(11))  # noqa: S311
    yield operations
    operations.close()


def test_nothing_is_found_while_the_primary_changes_and_the_standby_follows(
    moving: Standby, operations: Operations
) -> None:
    for _ in range(20):
        operations.one()
    moving.clone()
    enough = Event()

    def change() -> None:
        while not enough.is_set():
            operations.one()

    busy = Thread(target=change)
    with moving.follow() as follower:
        busy.start()
        try:
            reports = [
                json.loads(run_apart("verify", *moving.own, "--level", level, "--json").stdout)
                for level in LEVELS
            ]
        finally:
            enough.set()
            busy.join()
        follower.stop()
    assert all(report["findings"] == [] for report in reports)
    assert reports[-1]["serial"] > reports[0]["serial"]
