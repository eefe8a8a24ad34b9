"""`clone --reseed`: a new standby beside the present one, which stays until the new one takes its place."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.conftest import World, give_to_nobody
from tests.support.client import Client
from tests.support.damage import remove_row
from tests.support.devpi import Server
from tests.support.history import connect, files_below, read_history
from tests.support.oracle import assert_fsck, assert_replicated, assert_same_export, export
from tests.support.pgstandby import PostgresStandby
from tests.support.pgstandby import files as files_of
from tests.support.postgres import Postgres
from tests.support.runs import Background, Outcome, run_apart, run_here
from tests.support.snapshot import assert_promotable, last_serial
from tests.support.standby import Standby, changed, tree
from tests.support.waiting import wait_until

RESEED = "--reseed"


@pytest.fixture
def standby(world: World) -> Standby:
    """A standby that is behind its primary."""
    return Standby(world.standby(), world.proxy.url, world.secretfile)


@pytest.fixture
def holed(world: World) -> Iterator[tuple[Server, int]]:
    """The primary with a hole in its history, behind the standby's serial, and where that is."""
    server = world.copied()
    with server, Client(server.url) as client:
        client.login()
        client.modify_user("root", title="one")
        hole = server.serial()
        client.modify_user("root", title="two")
    remove_row(server.serverdir, hole)
    with world.lead_to(server):
        yield server, hole


def reseed(standby: Standby, *more: object, code: int = 0) -> Outcome:
    """Make a standby anew."""
    return run_here("clone", *standby.with_secret, RESEED, *more, code=code)


def beside(standby: Standby) -> list[str]:
    """Return the names of the standby's folder and of those that a reseed makes beside it."""
    return sorted(
        path.name for path in standby.serverdir.parent.glob(f"*{standby.serverdir.name}*") if path.is_dir()
    )


def kept(standby: Standby) -> Path:
    """Return where the former standby is."""
    [path] = standby.serverdir.parent.glob(f"{standby.serverdir.name}.replaced-*")
    return path


def touched(before: dict[str, tuple[object, ...]], folder: Path) -> list[str]:
    """Return what is not as it was, but for what whoever locks, or reads, a standby leaves in it."""
    passing = (".replisync", ".replisync/lock", ".sqlite-shm", ".sqlite-wal")
    return [name for name in changed(before, folder) if name not in passing]


def test_a_standby_is_made_anew_while_it_is_followed(world: World, standby: Standby) -> None:
    """Its place is taken when nobody follows it any more; the same command then does no more than that."""
    (standby.serverdir / "notes.txt").write_text("mine")
    uuid = standby.status("--offline")["uuid"]
    with standby.follow() as follower:
        said = reseed(standby, code=6)
        assert "Stop `follow`" in said.message
        assert last_serial(standby.serverdir.with_name("standby.reseed")) == world.serial
        follower.wait_for(lambda: standby.serial == world.serial, "it still follows")
        follower.stop()
    assert json.loads(reseed(standby, "--plan", "--json").stdout)["serials"] == 0, (
        "it only waits for its place"
    )
    world.proxy.requests.clear()
    before = tree(standby.serverdir)
    said = reseed(standby)
    assert "the old one is" in said.stdout
    assert "notes.txt" in said.stdout
    assert not [path for path in world.proxy.paths() if "/+changelog/0" in path or "/+f/" in path]
    assert beside(standby) == ["standby", kept(standby).name]
    assert touched(before, kept(standby)) == []
    assert_promotable(kept(standby), world.primary.serverdir)
    assert_replicated(world.primary, standby.serverdir)
    mine = list(files_below(standby.serverdir / "+files"))
    assert all(os.path.samefile(standby.serverdir / "+files" / p, kept(standby) / "+files" / p) for p in mine)
    status = standby.status()
    assert status["uuid"] != uuid
    assert uuid in status["seed"]["reason"]
    assert (status["seed"]["kind"], status["last_run"]["command"]) == ("changelog", "reseed")
    standby.catchup()
    standby.promote("--dry-run")


def test_a_history_with_a_hole_is_told_and_an_export_takes_its_place(
    standby: Standby, holed: tuple[Server, int]
) -> None:
    """The present standby stays at its last good serial until then; what was begun is not in the way."""
    server, hole = holed
    said = standby.catchup("--patience", 60, code=5)
    assert f"at serial {hole}" in said.message
    assert f"`replisync clone --reseed --serverdir {standby.serverdir} " in said.message
    before = tree(standby.serverdir)
    said = reseed(standby, "--patience", 60, code=5)
    assert f"at serial {hole}" in said.message
    assert "--from-serverdir" in said.message
    assert touched(before, standby.serverdir) == []
    said = reseed(standby, "--from-serverdir", server.serverdir)
    assert f"from an export (the history cannot be used at serial {hole}" in said.stdout
    assert touched(before, kept(standby)) == []
    with Client(server.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "since", "1.0")
    standby.catchup()
    assert_fsck(standby.serverdir)
    assert_same_export(server.serverdir, standby.serverdir)
    seed = standby.status()["seed"]
    assert seed["kind"] == "export"
    assert "--reseed" in seed["reason"]
    assert f"serial {hole}" in seed["reason"]
    shared = [p for p in files_below(kept(standby) / "+files") if (standby.serverdir / "+files" / p).exists()]
    assert shared
    assert all(
        os.path.samefile(standby.serverdir / "+files" / p, kept(standby) / "+files" / p) for p in shared
    )


def test_a_follower_that_meets_a_hole_names_the_way_out(standby: Standby, holed: tuple[Server, int]) -> None:
    said = run_here("follow", *standby.with_secret, "--timeout", 60, code=5)
    assert f"at serial {holed[1]}" in said.message
    assert "clone --reseed" in said.message


def test_a_dump_may_be_the_source_too(world: World, standby: Standby) -> None:
    dump = export(world.primary.serverdir, world.folder / "dump", mirrored=False)
    reseed(standby, "--from-export", dump, "--at-serial", world.serial)
    assert_same_export(world.primary.serverdir, standby.serverdir)


MOMENTS: dict[str, Callable[[Path], object]] = {
    "claimed": lambda new: (new / ".replisync/reseed").exists(),
    # Its log is looked at, not the database: that cannot be read at the moment in which it is made.
    "history": lambda new: wal.stat().st_size > 0 if (wal := new / ".sqlite-wal").exists() else False,
    "files": lambda new: (new / "+files").exists(),
    "complete": lambda new: (new / ".nodeinfo").exists(),
}


def test_a_reseed_goes_on_wherever_it_was_killed(world: World, standby: Standby) -> None:
    """There is a whole standby in its place at any time."""
    new = standby.serverdir.with_name("standby.reseed")
    for name, moment in MOMENTS.items():
        log = world.folder / f"{name}.log"
        with Background(log, "clone", *standby.with_secret, RESEED) as run:
            wait_until(lambda: moment(new) or run.process.poll() is not None, 60, name)  # noqa: B023
        assert_promotable(standby.serverdir, world.primary.serverdir)
    # One that was quicker than the kill has swapped already, and the next one may have begun anew.
    if new.exists() or beside(standby) == ["standby"]:
        reseed(standby)
    assert not new.exists()
    assert len(beside(standby)) > 1
    assert_replicated(world.primary, standby.serverdir)


def test_a_new_standby_that_is_not_what_it_should_be_does_not_take_the_place(
    standby: Standby,
) -> None:
    """It is proved first; the present one stays."""
    with standby.follow() as follower:
        reseed(standby, code=6)
        follower.stop()
    new = standby.serverdir.with_name("standby.reseed")
    before = tree(standby.serverdir)
    path = next(
        new / "+files" / path for path in sorted(read_history(new).live_files) if path.endswith(".whl")
    )
    path.unlink()
    path.write_bytes(b"not what it was")
    with closing(connect(new, write=True)) as database, database:
        database.execute("DELETE FROM replisync_verify")
    said = reseed(standby, code=8)
    assert "standby.reseed" in said.message
    assert touched(before, standby.serverdir) == []


# What is refused.


def test_what_cannot_be_made_anew_is_refused_before_anything_is_made(world: World, standby: Standby) -> None:
    reseed(Standby(world.folder / "none", world.proxy.url, world.secretfile), code=6)
    half = standby.copy(world.folder / "half")
    (half.serverdir / ".nodeinfo").unlink()
    assert "not complete" in reseed(half, code=6).message
    said = reseed(standby, "--seed", "export", code=2)
    assert "--from-serverdir" in said.message
    standby.catchup()
    standby.promote("--accept-loss")
    before = tree(standby.serverdir)
    assert "its role is primary" in reseed(standby, code=6).message
    # Also where only its database knows.
    info = json.loads((standby.serverdir / ".nodeinfo").read_bytes())
    (standby.serverdir / ".nodeinfo").write_text(json.dumps({**info, "role": "replica"}))
    assert "promoted" in reseed(standby, code=6).message
    assert [name for name in changed(before, standby.serverdir) if name != ".nodeinfo"] == []
    assert beside(standby) == ["standby"]


def test_another_primary_is_refused(world: World, standby: Standby) -> None:
    with Server(world.folder / "other", secretfile=world.secretfile).init() as other:
        assert "another server" in reseed(standby, "--primary-url", other.url, code=5).message
    assert beside(standby) == ["standby"]


def test_a_folder_that_may_not_be_written_is_named_before_the_work_begins(
    standby: Standby, shared_folder: Path
) -> None:
    """The names of the two folders are in it."""
    target = standby.copy(shared_folder / "standby").serverdir
    program = give_to_nobody(target)
    secret = shared_folder / "of-nobody/secret"
    said = run_apart("clone", "--serverdir", target, "--secretfile", secret, RESEED, code=7, program=program)
    assert f"et replisync write to {shared_folder}" in said.message
    assert sorted(path.name for path in shared_folder.iterdir()) == ["of-nobody", "standby"]


def test_a_standby_in_postgresql_needs_another_database(
    world: World, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The present one is in use until its place is taken."""
    old = PostgresStandby(world.folder / "standby", world.proxy.url, world.secretfile, postgres.database())
    run_here("clone", *old.new)
    monkeypatch.setenv("PGPASSWORD", old.database.password)
    plain = Standby(old.serverdir, old.primary_url, old.secretfile)
    assert "another, empty database" in reseed(plain, code=2).message
    assert "another, empty database" in reseed(plain, "--storage", old.database.spec, code=2).message
    used = postgres.database()
    other = PostgresStandby(world.folder / "other", world.proxy.url, world.secretfile, used)
    run_here("clone", *other.new)
    assert "not empty" in reseed(plain, "--storage", used.spec, code=6).message
    new = postgres.database()
    reseed(plain, "--storage", new.spec)
    monkeypatch.setenv("PGPASSWORD", new.password)
    assert plain.status()["storage"] == new.spec_without_password
    assert len(files_of(new)) > 20
    plain.catchup()
    shutil.rmtree(kept(plain))
    reseed(plain, "--storage", "sqlite")
    assert_replicated(world.primary, plain.serverdir, export=False)
