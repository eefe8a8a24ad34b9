"""A primary whose history parted from ours: the place is named, and after a rewind to it all goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Restored, World
from tests.support.damage import edit_row
from tests.support.devpi import Server
from tests.support.history import read_history
from tests.support.oracle import assert_equal_history, assert_files, assert_replicated, compare_histories
from tests.support.pgstandby import PostgresStandby, assert_fsck, files, history, sequence
from tests.support.pgstandby import files_on_disk as on_disk
from tests.support.postgres import Postgres
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby
from tests.support.waiting import wait_until


def rewind(standby: Standby, serial: int, *more: object, code: int = 0) -> dict[str, Any]:
    """Take a standby back; return what it says."""
    options = (*standby.own, "--to-serial", serial, "--json", *more)
    said: dict[str, Any] = json.loads(run_here("rewind", *options, code=code).stdout)
    return said


@pytest.fixture
def ahead(world: World) -> Standby:
    """A standby that has all of the primary."""
    standby = Standby(world.standby(), world.proxy.url, world.secretfile)
    standby.catchup()
    assert standby.serial == world.serial
    return standby


def test_a_primary_that_was_rewound_and_grew_again(world: World, restored: Restored, ahead: Standby) -> None:
    """follow ends, status says why until it is over, and rewind and catchup make the standby exact again."""
    restored.grow(world.serial + 3)
    before = snapshot(ahead.serverdir)
    with ahead.follow() as follower:
        world.lead_to(restored.server)
        said = follower.end(5)
    assert f"agree up to serial {world.early_serial}" in said.message
    advice = f"`replisync rewind --to-serial {world.early_serial} --serverdir {ahead.serverdir} "
    assert advice in said.message
    assert_untouched(ahead.serverdir, before)
    for options in ((), ("--offline",)):
        fields = ahead.status(*options)
        assert fields["state"] == "diverged"
        assert fields["divergence"]["fork_serial"] == world.early_serial
        assert advice in fields["error"]
    assert "history is not ours" in ahead.promote("--dry-run", code=9)["hint"]
    world.proxy.refuse()
    ahead.catchup("--patience", 0.1, code=3)
    assert ahead.status()["state"] == "diverged", "what failed since then does not hide it"
    world.proxy.accept()

    foreseen = rewind(ahead, world.early_serial, "--dry-run")
    assert_untouched(ahead.serverdir, before)
    done = rewind(ahead, world.early_serial)
    assert done == {**foreseen, "dry_run": False}
    assert done["restored"] > 0
    assert done["put_aside"] > 0
    assert done["missing"] == done["fetched"] == 0
    assert_equal_history(world.restored, ahead.serverdir, world.early_serial)
    assert_files(world.restored, ahead.serverdir)
    assert ahead.status()["state"] == "behind"
    assert ahead.status()["divergence"] is None

    with ahead.follow() as follower:
        follower.wait_for(lambda: ahead.serial == restored.server.serial(), "it goes on")
        follower.stop()
    assert_replicated(restored.server, ahead.serverdir)
    assert ahead.status()["state"] == "current"


def test_a_primary_that_lost_what_the_standby_never_had(world: World, restored: Restored) -> None:
    """Its lower serial is believed once the histories were compared, with one warning; not before."""
    standby = Standby(world.standby(), world.proxy.url, world.secretfile)
    standby.catchup("--to-serial", world.early_serial)
    world.lead_to(restored.server)
    refused = standby.promote("--dry-run", code=9)
    assert (refused["primary_serial"], refused["reachable"]) == (world.serial, True)
    assert f"it says {world.early_serial} now" in refused["error"]
    found = standby.status()
    assert (found["state"], found["primary_serial"]) == ("behind", world.serial)
    for warned in (1, 0):
        lines = standby.catchup().logs
        went_back = f"the primary went back from serial {world.serial} to {world.early_serial}"
        assert sum(line["event"].startswith(went_back) for line in lines) == warned
    found = standby.status()
    assert (found["state"], found["primary_serial"]) == ("current", world.early_serial)
    assert standby.promote("--dry-run")["lost_serials"] == 0


def test_a_primary_that_was_rewound_and_is_behind(world: World, restored: Restored, ahead: Standby) -> None:
    """Its serial is below ours, and the fork is where it is now, or before that."""
    world.lead_to(restored.server)
    assert ahead.status()["state"] == "diverged", "also where nobody has compared anything yet"
    for grown in (0, 2):
        restored.grow(world.early_serial + grown)
        assert f"agree up to serial {world.early_serial}." in ahead.catchup(code=5).message
    rewind(ahead, world.early_serial)
    ahead.catchup()
    assert_replicated(restored.server, ahead.serverdir, export=False)


def test_the_same_with_postgresql(
    world: World, restored: Restored, postgres: Postgres, tmp_path: Path
) -> None:
    """Rows of files come back and go, and devpi's sequence is at our serial at each moment."""
    database = postgres.database()
    standby = PostgresStandby(tmp_path / "pg", world.proxy.url, world.secretfile, database)
    world.lead_to(restored.server)
    standby.clone()
    world.lead_to(world.primary)
    standby.catchup()
    world.lead_to(restored.server)
    restored.grow(world.serial + 1)
    assert f"agree up to serial {world.early_serial}." in standby.catchup(code=5).message
    assert sequence(database) == world.serial + 1
    done = rewind(standby, world.early_serial)
    assert done["restored"] > 0
    assert sequence(database) == world.early_serial + 1
    compare_histories(read_history(world.restored), history(database), world.early_serial)
    live = read_history(world.restored).live_files
    expected = {path: found for path, found in on_disk(world.restored).items() if path in live}
    assert {path: found for path, found in files(database).items() if path in expected} == expected
    standby.catchup()
    compare_histories(read_history(restored.server.serverdir), history(database), restored.server.serial())
    assert sequence(database) == restored.server.serial() + 1
    assert_fsck(standby.serverdir, database.spec, tmp_path)


def test_an_edited_entry_near_the_end(world: World, ahead: Standby) -> None:
    """The primary's own database was changed by hand."""
    edited = world.serial - 1
    primary = world.copied()
    edit_row(primary.serverdir, edited, lambda changes: changes.update({"x/.config": ("USER", -1, {})}))
    with primary:
        world.lead_to(primary)
        said = ahead.catchup(code=5).message
        assert f"another entry at serial {edited}" in said
        assert f"agree up to serial {edited - 1}." in said
        rewind(ahead, edited - 1)
        ahead.catchup()
        assert read_history(ahead.serverdir).changelog[edited].count(b"x/.config") == 1


def test_devpis_own_replica_beside_it(
    world: World, restored: Restored, ahead: Standby, tmp_path: Path
) -> None:
    """It asks on and on while the primary is behind, and then mixes both histories without a word.

    That is devpi's issue 1073.
    """
    replica = Server(
        tmp_path / "replica", role="replica", primary_url=world.proxy.url, secretfile=world.secretfile
    )
    with replica.init():
        replica.wait_for_serial(world.serial)
        world.lead_to(restored.server)
        world.proxy.requests.clear()
        poll = f"/+changelog/{world.serial + 1}"
        wait_until(lambda: world.proxy.count(poll) >= 2, 60, "it asks for what there is not, again and again")
        ahead.catchup(code=5)
        assert replica.serial() == world.serial

        restored.grow(world.serial + 3)
        replica.wait_for_serial(world.serial + 3)
        said = ahead.catchup(code=5).message
        assert f"agree up to serial {world.early_serial}." in said
        theirs, mixed = read_history(restored.server.serverdir), read_history(replica.serverdir)
        assert mixed.changes(world.serial + 1) == theirs.changes(world.serial + 1)
        assert mixed.changes(world.serial) != theirs.changes(world.serial)
        with pytest.raises(AssertionError):
            compare_histories(theirs, mixed, world.serial, reencoded=True)
        rewind(ahead, world.early_serial)
        ahead.catchup()
        compare_histories(theirs, read_history(ahead.serverdir), world.serial + 3)


class TestFilesThatAreNotRetained:
    """A serial needs its files: they come from the primary, or somebody says that it goes without."""

    @pytest.fixture
    def bare(self, world: World) -> Standby:
        """A standby that has all of the primary, and nothing of what the primary dropped."""
        standby = Standby(world.standby(), world.proxy.url, world.secretfile)
        standby.catchup("--retention", 0)
        return standby

    def test_without_a_secret_it_stays_where_it_is(self, world: World, bare: Standby) -> None:
        before = snapshot(bare.serverdir)
        for options in ((), ("--dry-run",)):
            said = rewind(bare, world.early_serial, *options, code=9)
            assert said["missing_files"]
            assert "no secret was given" in said["error"]
            assert "--accept-loss" in said["hint"]
        assert_untouched(bare.serverdir, before)
        assert bare.status()["last_run"]["command"] == "rewind"

    def test_the_primary_has_them(self, world: World, restored: Restored, bare: Standby) -> None:
        world.lead_to(restored.server)
        done = rewind(bare, world.early_serial, "--secretfile", world.secretfile)
        assert done["fetched"] > 0
        assert done["missing"] == 0
        assert_replicated(restored.server, bare.serverdir, export=False)

    def test_a_primary_that_cannot_be_reached(self, world: World, bare: Standby) -> None:
        before = snapshot(bare.serverdir)
        world.proxy.refuse()
        said = rewind(bare, world.early_serial, "--secretfile", world.secretfile, code=9)
        assert "the primary gave no answer" in said["error"]
        assert_untouched(bare.serverdir, before)

    def test_going_back_without_them(self, world: World, restored: Restored, bare: Standby) -> None:
        """They are faults, a promotion asks about them, and a catchup brings them."""
        done = rewind(bare, world.early_serial, "--accept-loss")
        assert done["missing"] == len([f for f in bare.faults().values() if f["kind"] == "skipped"]) > 0
        assert "missing" not in bare.promote(code=9)
        world.lead_to(restored.server)
        bare.catchup()
        assert bare.faults() == {}
        assert_replicated(restored.server, bare.serverdir, export=False)


def promoted(standby: Standby) -> None:
    """Promote a standby."""
    standby.promote("--accept-loss")


def unfinished(standby: Standby) -> None:
    """Make a standby look like a clone that was interrupted."""
    (standby.serverdir / ".nodeinfo").unlink()


def foreign(standby: Standby) -> None:
    """Take away all that is ours."""
    shutil.rmtree(standby.serverdir / ".replisync")


@pytest.mark.parametrize("spoil", [promoted, unfinished, foreign])
def test_what_is_no_standby_is_not_taken_back(ahead: Standby, spoil: Callable[[Standby], None]) -> None:
    spoil(ahead)
    before = snapshot(ahead.serverdir)
    rewind(ahead, 3, code=6)
    assert_untouched(ahead.serverdir, before)


def test_a_standby_that_is_followed_is_not_taken_back(world: World, ahead: Standby) -> None:
    with ahead.follow() as follower:
        assert "another replisync" in rewind(ahead, 3, code=6)["error"]
        follower.stop()
    assert ahead.serial == world.serial


def test_serials_that_it_cannot_go_back_to(world: World, ahead: Standby) -> None:
    """Beyond its own it is catchup's work; at its own there is nothing to do."""
    assert f"is at serial {world.serial}" in rewind(ahead, world.serial + 1, code=9)["error"]
    assert rewind(ahead, world.serial)["entries"] == 0
    run_here("rewind", *ahead.own, "--to-serial", -1, code=2)


def test_back_to_the_very_first_serial(world: World, ahead: Standby) -> None:
    """And forwards again, to the primary that never changed."""
    done = rewind(ahead, 0)
    assert done["to_serial"] == 0
    assert int((ahead.serverdir / ".event_serial").read_text()) == 1
    assert_equal_history(world.primary.serverdir, ahead.serverdir, 0)
    ahead.catchup()
    assert_replicated(world.primary, ahead.serverdir, export=False)
