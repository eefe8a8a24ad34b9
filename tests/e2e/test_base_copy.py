"""A copy of a serverdir on this machine: exact, without harm to it, followed or on its own."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.busy import written_to
from tests.support.client import Client
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import files_below, read_history
from tests.support.oracle import (
    assert_equal_history,
    assert_files,
    assert_fsck,
    assert_replicated,
    assert_same_export,
    compare_histories,
)
from tests.support.pgstandby import PostgresStandby, files, history
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.runs import Background, run_here
from tests.support.snapshot import assert_promotable, last_serial
from tests.support.standby import Standby, changed, tree
from tests.support.waiting import wait_until

FROM = "--from-serverdir"


@pytest.fixture
def new(tmp_path: Path, proxy: Proxy, secretfile: Path) -> Standby:
    """A standby that is still to be made, by way of the proxy."""
    return Standby(tmp_path / "new", proxy.url, secretfile)


@pytest.fixture
def at_rest(tmp_path: Path, populated_serverdir: Path) -> Path:
    """The serverdir of a server that does not run, to do with as you like."""
    return copy_serverdir(populated_serverdir, tmp_path / "at-rest")


def asked_for_files(proxy: Proxy) -> list[str]:
    return [path for path in map(unquote, proxy.paths()) if "/+f/" in path or "/+e/" in path]


@pytest.mark.parametrize("links", [False, True])
def test_a_base_copy_is_a_standby_as_any_other(
    still: Server, proxy: Proxy, new: Standby, links: bool
) -> None:
    """The running primary's folder is only read, and hardly anything comes over the network."""
    before = tree(still.serverdir)
    present = set(files_below(still.serverdir / "+files"))
    new.clone(FROM, still.serverdir, *(("--hard-links",) if links else ()))
    assert [path for path in asked_for_files(proxy) if path[1:] in present] == []
    assert [name for name in changed(before, still.serverdir) if not name.startswith("+files/")] == []
    same = [path for path in present if _same(still.serverdir, new.serverdir, path)]
    assert bool(same) is links
    assert_replicated(still, new.serverdir)
    seed = new.status()["seed"]
    assert (seed["kind"], seed["serial"]) == ("base-copy", still.serial())
    assert new.status()["last_run"]["local"] == len(present)
    assert sorted(os.listdir(new.serverdir / ".replisync")) == ["lock", "retained", "tmp"]
    new.catchup()
    new.promote("--dry-run")


def _same(one: Path, other: Path, path: str) -> bool:
    return (one / "+files" / path).samefile(other / "+files" / path)


def test_a_copy_without_a_primary_is_a_server_of_its_own(
    still: Server, tmp_path: Path, secretfile: Path
) -> None:
    """A stock devpi-server starts on it at once; replisync's commands say what it is, and leave it alone."""
    target = tmp_path / "copy"
    said = run_here("clone", "--serverdir", target, FROM, still.serverdir)
    assert f"standalone server at serial {still.serial()}" in said.stdout
    assert_equal_history(still.serverdir, target)
    assert_files(still.serverdir, target)
    assert_fsck(target)
    assert_same_export(still.serverdir, target)
    info = json.loads((target / ".nodeinfo").read_bytes())
    assert info["role"] == "standalone"
    assert info["uuid"] != still.uuid()
    event_serial = (still.serverdir / ".event_serial").read_text()
    assert (target / ".event_serial").read_text() == event_serial
    assert not list(target.glob(".sqlite-*"))
    before = tree(target)
    status = json.loads(run_here("status", "--serverdir", target, "--json").stdout)
    assert (status["state"], status["primary_url"]) == ("promoted", None)
    assert status["seed"]["finished"]
    for command in ("promote", "catchup"):
        secret = ("--secretfile", secretfile) if command == "catchup" else ()
        assert "standalone" in run_here(command, "--serverdir", target, *secret, code=6).message
    assert "standalone" in run_here("clone", "--serverdir", target, FROM, still.serverdir, code=6).message
    assert changed(before, target) == []
    with Server(target, role="standalone", secretfile=secretfile) as server, Client(server.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "after", "1.0")
        assert server.serial() == still.serial() + 1


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_server_that_does_not_run_is_not_touched(at_rest: Path, tmp_path: Path, journal: str) -> None:
    """Not even for a moment is there a file more in its folder, whatever the journal of its database."""
    with closing(sqlite3.connect(at_rest / ".sqlite")) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
    at_rest.chmod(0o555)
    before = tree(at_rest)
    stamp = at_rest.stat().st_mtime_ns
    run_here("clone", "--serverdir", tmp_path / "copy", FROM, at_rest)
    assert changed(before, at_rest) == []
    assert at_rest.stat().st_mtime_ns == stamp
    at_rest.chmod(0o755)
    assert_equal_history(at_rest, tmp_path / "copy")


def test_what_is_damaged_in_the_source_comes_from_the_primary(
    still: Server, new: Standby, at_rest: Path, proxy: Proxy
) -> None:
    """No file is linked or copied without its digest; without a primary the copy is not finished."""
    live = read_history(at_rest).live_files
    names = [path for path in sorted(live) if path.startswith("alice/") and path.endswith(".whl")][:2]
    spoiled, missing = (at_rest / "+files" / name for name in names)
    spoiled.write_bytes(b"x" * spoiled.stat().st_size)
    missing.unlink()
    alone = new.serverdir.with_name("alone")
    said = run_here("clone", "--serverdir", alone, FROM, at_rest, "--hard-links", code=3)
    assert f"not in {at_rest}" in said.message
    assert not (alone / ".nodeinfo").exists()
    new.clone(FROM, at_rest, "--hard-links")
    assert {path[1:] for path in asked_for_files(proxy)} >= set(names)
    assert_replicated(still, new.serverdir, export=False)
    run_here("clone", "--serverdir", alone, FROM, at_rest, "--replica-file-search-path", still.serverdir)
    assert_files(still.serverdir, alone)


def test_a_file_that_has_not_got_its_name_yet_is_found(at_rest: Path, tmp_path: Path) -> None:
    """As after a crash of the server between its commit and the renaming."""
    live = read_history(at_rest).live_files
    path = at_rest / "+files" / next(path for path in sorted(live) if path.startswith("alice/"))
    path.rename(path.with_name(f"{path.name}-{'a' * 64}-tmp"))
    run_here("clone", "--serverdir", tmp_path / "copy", FROM, at_rest)
    assert_fsck(tmp_path / "copy")


def test_a_copy_goes_on_wherever_it_was_killed(still: Server, tmp_path: Path) -> None:
    """Nothing that it left could be taken for a whole; the same command ends it, and leaves nothing over."""
    target = tmp_path / "copy"
    moments: list[Callable[[], object]] = [
        (target / ".replisync/seed/snapshot.sqlite").exists,
        (target / ".sqlite").exists,
        lambda: last_serial(target) > 0,
        lambda: any(files_below(target / ".replisync/tmp")),
        lambda: (target / "+files").exists(),
    ]
    for number, moment in enumerate(moments):
        log = tmp_path / f"{number}.log"
        with Background(log, "clone", "--serverdir", target, FROM, still.serverdir) as run:
            wait_until(lambda: moment() or run.process.poll() is not None, 30, "the moment to kill it")  # noqa: B023
        if (target / ".nodeinfo").exists():
            break
    if not (target / ".nodeinfo").exists():
        run_here("clone", "--serverdir", target, FROM, still.serverdir)
    assert_equal_history(still.serverdir, target)
    assert_files(still.serverdir, target)
    assert not (target / ".replisync/seed").exists()


@pytest.mark.parametrize("followed", [False, True])
def test_a_copy_of_a_server_that_is_written_to_is_what_it_was_at_some_serial(
    populated: Server, tmp_path: Path, secretfile: Path, followed: bool
) -> None:
    """Uploads, replacements and deletions go on while history and files are read."""
    standby = Standby(tmp_path / "copy", populated.url, secretfile)
    with written_to(populated):
        for round_ in range(3):
            shutil.rmtree(standby.serverdir, ignore_errors=True)
            source = standby.new if followed else standby.own
            run_here("clone", *source, FROM, populated.serverdir)
            serial = last_serial(standby.serverdir)
            assert serial > 0, round_
    assert assert_promotable(standby.serverdir, populated.serverdir) == serial
    if followed:
        standby.catchup()
        assert_replicated(populated, standby.serverdir, export=False)


# What is refused.


def test_what_is_no_copyable_serverdir_is_refused(at_rest: Path, cloned: Standby, tmp_path: Path) -> None:
    """Before anything is written, and with the name of the option."""
    half = cloned.copy(tmp_path / "half").serverdir
    (half / ".nodeinfo").unlink()
    no_sqlite = shutil.copytree(at_rest, tmp_path / "pg")
    (no_sqlite / ".sqlite").unlink()
    garbage = shutil.copytree(at_rest, tmp_path / "garbage")
    (garbage / ".nodeinfo").write_text("[]")
    old = shutil.copytree(at_rest, tmp_path / "old")
    (old / ".serverversion").write_text("3.1.2")
    for source, words in (
        (tmp_path / "nothing", "not a serverdir"),
        (half, "not a complete one"),
        (no_sqlite, "not SQLite"),
        (garbage, ".nodeinfo"),
        (old, "3.1.2"),
    ):
        said = run_here("clone", "--serverdir", tmp_path / "new", FROM, source, code=2)
        assert words in said.message
        assert FROM in said.message
        assert not (tmp_path / "new").exists()
    for target in (at_rest, at_rest / "sub", tmp_path):
        assert "same folder" in run_here("clone", "--serverdir", target, FROM, at_rest, code=2).message
    assert "no source" in run_here("clone", "--serverdir", tmp_path / "new", code=2).message


@pytest.mark.parametrize("damage", ["no database", "a torn page", "a missing row"])
def test_a_damaged_database_is_not_copied(at_rest: Path, tmp_path: Path, damage: str) -> None:
    database = at_rest / ".sqlite"
    if damage == "no database":
        database.write_bytes(b"no database at all" * 100)
    elif damage == "a torn page":
        data = bytearray(database.read_bytes())
        data[4096 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4096)
        database.write_bytes(data)
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DELETE FROM changelog WHERE serial = 20")
    run_here("clone", "--serverdir", tmp_path / "new", FROM, at_rest, code=5)
    assert not (tmp_path / "new/.nodeinfo").exists()


def test_another_primary_is_refused(at_rest: Path, primary: Server, tmp_path: Path, secretfile: Path) -> None:
    """The UUID of the serverdir and the primary's must be the same, and so must their histories."""
    standby = Standby(tmp_path / "new", primary.url, secretfile)
    assert "another server" in standby.clone(FROM, at_rest, code=5).message
    assert not standby.serverdir.exists()
    primary.stop()
    info = json.loads((at_rest / ".nodeinfo").read_bytes())
    theirs = json.loads((primary.serverdir / ".nodeinfo").read_bytes())
    (primary.serverdir / ".nodeinfo").write_text(json.dumps({**theirs, "uuid": info["uuid"]}))
    primary.start()
    standby.clone(FROM, at_rest, code=5)
    assert not (standby.serverdir / ".nodeinfo").exists()


def test_a_base_copy_goes_into_postgresql_too(
    still: Server, tmp_path: Path, secretfile: Path, postgres: Postgres
) -> None:
    standby = PostgresStandby(tmp_path / "new", still.url, secretfile, postgres.database())
    standby.clone(FROM, still.serverdir)
    compare_histories(read_history(still.serverdir), history(standby.database), still.serial())
    live = set(read_history(still.serverdir).live_files)
    assert set(files(standby.database)) == live
