"""Targets that are not ours to write, or not now: exit 6, and nothing in them changes."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.conftest import World, give_to_nobody
from tests.support.client import Client
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import connect
from tests.support.oracle import assert_replicated
from tests.support.runs import REPLISYNC, Background, Outcome, run_apart, run_here
from tests.support.snapshot import assert_promotable, assert_untouched, last_serial, snapshot

WRITERS = ("catchup", "follow", "clone")


def refused(world: World, command: str, target: Path) -> Outcome:
    """Run a command that must end with 6 and leave its target as it is; return what it said."""
    before = snapshot(target)
    options = world.new(target) if command == "clone" else world.options(target)
    said = run_here(command, *options, code=6)
    assert_untouched(target, before)
    return said


def is_settled(target: Path, serial: int) -> bool:
    """Tell whether a target is at a serial, with all files in the places that it demands."""
    if last_serial(target) != serial:
        return False
    with closing(connect(target)) as database:
        return database.execute("SELECT count(*) FROM replisync_pending").fetchall() == [(0,)]


def test_a_second_replisync(world: World) -> None:
    """While one follows, every command that would write is refused and told who holds the target."""
    target = world.standby()
    with Background(world.folder / "follow.log", "follow", *world.options(target)) as follower:
        follower.wait_for(lambda: is_settled(target, world.serial), "it has caught up")
        for command in ("catchup", "follow"):
            assert f"process {follower.pid}" in refused(world, command, target).message
        before = snapshot(target)
        said = run_here("promote", "--serverdir", target, code=6)
        assert f"process {follower.pid}" in said.message
        assert_untouched(target, before)
        follower.stop()
    run_here("catchup", *world.options(target))


def test_a_second_clone(world: World) -> None:
    """Two clones into one folder do not mix."""
    target = world.folder / "new"
    with (
        world.proxy.fault(path="/alice", stall_after=100) as fault,
        Background(world.folder / "clone.log", "clone", *world.new(target)) as clone,
    ):
        clone.wait_for(lambda: fault.done, "the first clone fetches files")
        said = run_here("clone", *world.new(target), code=6)
        assert f"process {clone.pid}" in said.message
        world.proxy.remove(fault)
        clone.end(0)
    assert_replicated(world.primary, target, export=False, fsck=False)


def promoted_by_devpi(world: World, target: Path, *, upload: bool = True) -> None:
    """Start a devpi-server on the target as primary, as nobody should, and upload to it."""
    with Server(target, secretfile=world.secretfile) as server, Client(server.url) as client:
        client.login("alice", "secret")
        if upload:
            client.upload_wheel("alice/dev", "foreign", "1.0", b"written here")


def test_a_standby_that_a_devpi_server_was_started_on_as_primary(world: World) -> None:
    """Its own serial is not written over, whichever command comes."""
    target = world.standby()
    promoted_by_devpi(world, target)
    assert last_serial(target) > world.early_serial
    for command in WRITERS:
        said = refused(world, command, target)
        assert "primary" in said.message
    # Somebody takes the role back by hand: the serial is not ours all the same.
    edit_nodeinfo(target, role="replica")
    before = snapshot(target)
    said = run_here("catchup", *world.options(target), code=6)
    assert "but our last commit was" in said.message
    assert_untouched(target, before)


@pytest.mark.parametrize("upload", [True, False], ids=["written to", "only started"])
def test_a_devpi_server_that_becomes_primary_on_the_standby_while_we_follow(
    world: World, upload: bool
) -> None:
    """The follower ends before it writes anything more."""
    target = world.standby()
    with world.lead_to(world.copied()) as primary, Client(primary.url) as client:
        client.login("alice", "secret")
        with Background(world.folder / "follow.log", "follow", *world.options(target)) as follower:
            follower.wait_for(lambda: last_serial(target) == world.serial, "it has caught up")
            promoted_by_devpi(world, target, upload=upload)
            before = snapshot(target)
            client.register("alice/dev", "one-more", "1.0")
            said = follower.end(6)
    assert "primary" in said.message
    assert_untouched(target, before)


def test_a_writer_that_leaves_the_role_alone(world: World) -> None:
    """A serial that somebody else wrote while we waited for it is not written over."""
    target = world.standby()
    with world.lead_to(world.copied()) as primary, Client(primary.url) as client:
        client.login("alice", "secret")
        with Background(world.folder / "follow.log", "follow", *world.options(target)) as follower:
            poll = f"/+changelog/{world.serial + 1}"
            follower.wait_for(lambda: poll in world.proxy.paths(), "it waits for the next change")
            with closing(connect(target, write=True)) as database, database:
                database.execute("INSERT INTO changelog VALUES (?, ?)", (world.serial + 1, b"foreign"))
            before = snapshot(target)
            client.register("alice/dev", "one-more", "1.0")
            said = follower.end(6)
    assert f"its changelog ends at serial {world.serial + 1}" in said.message
    assert_untouched(target, before)


def edit_nodeinfo(target: Path, **values: str) -> None:
    """Change fields of .nodeinfo."""
    path = target / ".nodeinfo"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def role(name: str) -> Callable[[Path], None]:
    """Return an edit of a target: another role."""
    return lambda target: edit_nodeinfo(target, role=name)


def no_json(target: Path) -> None:
    """Damage .nodeinfo."""
    (target / ".nodeinfo").write_bytes(b"\xff\xfe{")


def no_database(target: Path) -> None:
    """Damage the database."""
    for path in target.glob(".sqlite-*"):
        path.unlink()
    (target / ".sqlite").write_bytes(b"this is no database" * 100)


def empty_changelog(target: Path) -> None:
    """Take the database away."""
    for path in target.glob(".sqlite*"):
        path.unlink()


def newer_tables(target: Path) -> None:
    """Have tables that a later replisync made."""
    with closing(sqlite3.connect(target / ".sqlite")) as database, database:
        database.execute("UPDATE replisync_schema SET version_num = '9999'")


def not_ours(target: Path) -> None:
    """Make it the serverdir of a replica of devpi's own."""
    shutil.rmtree(target / ".replisync")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (role("primary"), "to a standalone server: its role is primary"),
        (role("standalone"), "to a standalone server: its role is standalone"),
        (role("master"), "to a standalone server: its role is master"),
        (no_json, "not in the format of devpi-server"),
        (newer_tables, "9999"),
        (not_ours, "not a replisync standby"),
    ],
)
@pytest.mark.parametrize("command", WRITERS)
def test_a_target_that_is_not_ours_to_write(
    world: World, edit: Callable[[Path], None], words: str, command: str
) -> None:
    """What it is, is said; nothing is written."""
    target = world.standby()
    edit(target)
    said = refused(world, command, target)
    if not (command == "clone" and edit in (newer_tables, not_ours)):
        assert words in said.message


@pytest.mark.parametrize("command", ["catchup", "follow"])
def test_a_target_without_a_usable_database(world: World, command: str) -> None:
    """No new database is made in its place."""
    damaged = world.standby("damaged")
    no_database(damaged)
    content = (damaged / ".sqlite").read_bytes()
    said = run_here(command, *world.options(damaged), code=6)
    assert "clone into an empty serverdir" in said.message
    assert (damaged / ".sqlite").read_bytes() == content
    bare = world.standby("bare")
    empty_changelog(bare)
    run_here(command, *world.options(bare), code=6)
    assert not (bare / ".sqlite").exists()


def test_a_clone_into_what_is_there_already(world: World) -> None:
    """A finished standby, a devpi-server's folder and anybody's files are left alone."""
    assert "it is a finished standby" in refused(world, "clone", world.standby()).message
    devpi = copy_serverdir(world.restored, world.folder / "devpi")
    assert "it is not empty" in refused(world, "clone", devpi).message
    holiday = world.folder / "holiday"
    holiday.mkdir()
    (holiday / "photo").write_bytes(b"sea")
    assert "there is photo" in refused(world, "clone", holiday).message
    file = world.folder / "file"
    file.write_bytes(b"a file")
    run_here("clone", *world.new(file), code=6)
    assert file.read_bytes() == b"a file"


@pytest.mark.parametrize("protected", [".sqlite", "+files/alice/dev/+f", ".replisync/tmp", "."])
def test_a_target_that_we_may_not_write(world: World, shared_folder: Path, protected: str) -> None:
    """Exit 7 with the hint to run as the owner; nothing changes, and the owner can go on."""
    target = Path(shutil.copytree(world.standby("template"), shared_folder / "standby", symlinks=True))
    program = give_to_nobody(target)
    blocked = target / protected
    everything = [blocked, *blocked.rglob("*")] if protected == "." else [blocked]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(target)
    options = world.options(target, "--secretfile", shared_folder / "of-nobody" / "secret")
    said = run_apart("catchup", *options, code=7, program=program)
    assert "owner" in said.message
    if protected != "+files/alice/dev/+f":
        assert_untouched(target, before)
    assert_promotable(target, world.primary.serverdir)
    for path, mode in modes.items():
        path.chmod(mode)
    for path in target.glob(".sqlite-*"):  # made with the mode of the database
        path.chmod(0o644)
    run_apart("catchup", *options, program=program)
    assert_replicated(world.primary, target, export=False, fsck=False)


@pytest.mark.parametrize(("limit", "code"), [(9, 7), (12, 7), (60, 0)])
def test_a_file_table_that_is_full(world: World, limit: int, code: int) -> None:
    """However few files may be open, the standby stays good, and the message names the limit."""
    target = world.standby()
    limited = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *REPLISYNC)
    said = run_apart("catchup", *world.options(target, "--patience", 1), code=code, program=limited)
    if code:
        assert "ulimit -n" in said.message
    assert_promotable(target, world.primary.serverdir)
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)
