"""Not the history that we follow: exit 5 before a byte is written, whenever and however it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Restored, World
from tests.support.devpi import Server
from tests.support.runs import Background, Outcome, run_here
from tests.support.snapshot import assert_untouched, last_serial, snapshot


def detected(world: World, command: str, target: Path, *more: object) -> Outcome:
    """Run a command that must end with 5 and leave its target as it is; return what it said."""
    before = snapshot(target)
    said = run_here(command, *world.options(target, *more), code=5)
    assert_untouched(target, before)
    return said


def half_clone(world: World) -> Path:
    """Return a serverdir with all metadata of the primary and no file."""
    target = world.folder / "half"
    with world.proxy.fault(path="/[a-z]+/[a-z]+/", status=403):
        run_here("clone", *world.new(target, "--patience", "1"), code=3)
    assert last_serial(target) == world.serial
    assert not (target / ".nodeinfo").exists()
    return target


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Server]:
    """A running primary that has the same secret and nothing else in common."""
    serverdir = tmp_path_factory.mktemp("stranger") / "stranger"
    with Server(serverdir, secretfile=secretfile).init() as server:
        yield server


@pytest.mark.parametrize("command", ["catchup", "follow"])
def test_another_server_behind_the_url(world: World, stranger: Server, command: str) -> None:
    """Its UUID tells, at the start of each command."""
    target = world.standby()
    world.lead_to(stranger)
    said = detected(world, command, target)
    assert f"its UUID is {stranger.uuid()}, but we follow {world.primary.uuid()}" in said.message


def test_another_server_at_a_new_url(world: World, stranger: Server) -> None:
    """A wrong --primary-url is not remembered."""
    target = world.standby()
    detected(world, "catchup", target, "--primary-url", stranger.url)
    run_here("catchup", *world.options(target))
    assert last_serial(target) == world.serial


def test_another_server_when_a_clone_resumes(world: World, stranger: Server) -> None:
    """An interrupted clone goes on from the server that it began with, or not at all."""
    target = half_clone(world)
    world.lead_to(stranger)
    said = detected(world, "clone", target, "--primary-url", world.proxy.url)
    assert "another server" in said.message
    world.lead_to(world.primary)
    run_here("clone", *world.new(target))
    assert (target / ".nodeinfo").exists()


def test_a_primary_that_was_restored_from_a_backup(world: World, restored: Restored) -> None:
    """Behind us, at our serial again, or beyond it: its entry at our serial is not ours."""
    standby, clone = world.standby(), half_clone(world)
    run_here("catchup", *world.options(standby))
    world.lead_to(restored.server)
    for serial, why in (
        (world.early_serial, "behind ours, as after its restore from a backup"),
        (world.serial - 1, "behind ours, as after its restore from a backup"),
        (world.serial, "another entry at our last serial"),
        (world.serial + 3, "another entry at our last serial"),
    ):
        restored.grow(serial)
        for command in ("catchup", "follow"):
            said = detected(world, command, standby)
            assert why in said.message
            assert f"at serial {world.serial}" in said.message
            assert f"agree up to serial {world.early_serial}" in said.message
        said = detected(world, "clone", clone, "--primary-url", world.proxy.url)
        assert why in said.message
        assert "clone into an empty serverdir" in said.message


@contextmanager
def following(world: World) -> Iterator[Background]:
    """Follow over the proxy, with everything applied; the follower waits for the next change."""
    target = world.standby("followed")
    with Background(world.folder / "follow.log", "follow", *world.options(target)) as follower:
        poll = f"/+changelog/{world.serial + 1}"
        follower.wait_for(lambda: poll in world.proxy.paths(), "it waits for the next change")
        yield follower


def ended(world: World, follower: Background) -> str:
    """Wait for the end of a follower that must have written nothing since; return its message."""
    target = world.folder / "followed"
    before = snapshot(target)
    said = follower.end(5)
    assert_untouched(target, before)
    return said.message


def test_a_primary_replaced_while_we_wait_for_its_next_change(world: World, restored: Restored) -> None:
    """The connection breaks, another history is behind the same port: nothing of it is written."""
    restored.grow(world.serial + 2)
    with following(world) as follower:
        world.lead_to(restored.server)
        assert "another entry at our last serial" in ended(world, follower)


def test_a_primary_replaced_behind_a_connection_that_stays(world: World, restored: Restored) -> None:
    """A reverse proxy answers for the primary while it is gone, then passes on what its successor says."""
    restored.grow(world.serial + 2)
    world.proxy.bad_gateway = True
    with world.copied() as primary:
        world.lead_to(primary)
        with following(world) as follower:
            restored.server.stop()
            primary.kill()
            restored.server.port = primary.port
            restored.server.start()
            assert "another entry at our last serial" in ended(world, follower)


def test_a_stranger_takes_the_place_of_the_primary_while_we_wait(world: World, stranger: Server) -> None:
    """Another UUID in the next answer ends the run."""
    with following(world) as follower:
        world.lead_to(stranger)
        assert "another server" in ended(world, follower)
