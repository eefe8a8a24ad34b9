"""A primary that got a new UUID is followed again where its whole history is proved to be ours."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.conftest import World
from tests.support.client import Client
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import connect
from tests.support.oracle import assert_replicated
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, last_serial, snapshot

UUID = "0123456789abcdef0123456789abcdef"
ADOPT = "--adopt-primary-uuid"


@contextmanager
def renamed(world: World, source: Path | None = None) -> Iterator[Server]:
    """Run the primary under another UUID, as after a restore of its settings, behind the proxy's URL."""
    serverdir = copy_serverdir(source or world.primary.serverdir, world.folder / "renamed")
    server = Server(serverdir, secretfile=world.secretfile)
    info = json.loads((server.serverdir / ".nodeinfo").read_bytes())
    (server.serverdir / ".nodeinfo").write_text(json.dumps({**info, "uuid": UUID}))
    with server:
        assert server.uuid() == UUID
        yield world.lead_to(server)


def test_the_same_history_under_a_new_uuid_is_adopted_once(world: World) -> None:
    target = world.standby()
    with renamed(world) as server:
        said = run_here("catchup", *world.options(target), code=5)
        assert f"`replisync catchup {ADOPT} --serverdir {target}" in said.message
        run_here("catchup", *world.options(target, ADOPT))
        assert last_serial(target) == world.serial
        assert_replicated(server, target, export=False)
        run_here("catchup", *world.options(target))
        run_here("catchup", *world.options(target, ADOPT))
        run_here("verify", *world.options(target, "--level", "primary"))
        found = json.loads(run_here("status", "--serverdir", target, "--json").stdout)
        assert (found["state"], found["primary_uuid"]) == ("current", UUID)
        assert [(one["uuid"], one["from_serial"]) for one in found["lineage"]] == [
            (world.primary.uuid(), 0),
            (UUID, world.early_serial + 1),
        ]
        text = run_here("status", "--serverdir", target).stdout
        assert f"  lineage     {UUID} from serial {world.early_serial + 1} on, since 20" in text
        info = json.loads((target / ".nodeinfo").read_bytes())
        assert info["primary-uuid"] == UUID
        run_here("promote", "--serverdir", target, "--dry-run")


def test_one_other_entry_long_ago_is_another_history(world: World) -> None:
    """The last entries alone would prove nothing."""
    target = world.standby()
    with renamed(world):
        with connect(target, write=True) as database:
            other = database.execute("SELECT data FROM changelog WHERE serial = 2").fetchone()
            database.execute("UPDATE changelog SET data = ? WHERE serial = 1", other)
        database.close()
        before = snapshot(target)
        said = run_here("catchup", *world.options(target, ADOPT), code=5)
        assert "its entry at serial 1 is not ours" in said.message
        assert_untouched(target, before)


def test_a_primary_behind_us_or_another_server_is_not_adopted(world: World) -> None:
    target = world.standby()
    run_here("catchup", *world.options(target))
    with renamed(world, world.restored) as server:
        assert server.serial() < world.serial
        before = snapshot(target)
        said = run_here("catchup", *world.options(target, ADOPT), code=5)
        assert f"it is at serial {server.serial()}, behind ours" in said.message
        assert_untouched(target, before)
    stranger = Server(world.folder / "stranger", secretfile=world.secretfile).init()
    with stranger, Client(stranger.url).login() as client:
        world.lead_to(stranger)
        while stranger.serial() < world.serial:
            client.create_index(f"root/other{stranger.serial()}")
        said = run_here("catchup", *world.options(target, ADOPT), code=5)
        assert "is not ours" in said.message
        assert_untouched(target, before)
    found = json.loads(run_here("status", "--serverdir", target, "--json", "--offline").stdout)
    assert (found["state"], found["divergence"]) == ("current", None), "its own primary has not diverged"


def test_an_adoption_that_died_between_its_two_writes_is_done_by_the_next_one(world: World) -> None:
    """`.nodeinfo` is written first; without the row the new server is still another one."""
    target = world.standby()
    kept = world.folder / "before"
    shutil.copytree(target, kept, ignore=shutil.ignore_patterns("+files"))
    with renamed(world) as server:
        run_here("catchup", *world.options(target, ADOPT, "--to-serial", world.early_serial))
        for database in target.glob(".sqlite*"):
            database.unlink()
        shutil.copy(kept / ".sqlite", target / ".sqlite")
        assert json.loads((target / ".nodeinfo").read_bytes())["primary-uuid"] == UUID
        run_here("catchup", *world.options(target), code=5)
        run_here("catchup", *world.options(target, ADOPT))
        assert_replicated(server, target, export=False)
        run_here("verify", *world.options(target, "--level", "full"))
