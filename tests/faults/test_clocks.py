"""A primary whose clock is not ours, and whose answers may not say so: it is followed all the same."""

from pathlib import Path

import pytest

from tests.faults.conftest import World
from tests.support.client import Client
from tests.support.clock import ShiftedClock
from tests.support.devpi import Server
from tests.support.oracle import assert_replicated
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby
from tests.support.waiting import wait_until

ARRIVE_SECONDS = 60
LONG_AGO = "Sat, 03 Feb 2001 04:05:06 GMT"


def shifted(world: World, shift: int) -> Server:
    """Return a stopped primary like the shared one, whose clock is ahead by so many seconds."""
    server = world.copied()
    server.clock_shift = shift
    return server


def change(server: Server, standby: Standby, version: str) -> None:
    """Commit a change with a file; return when the standby has it."""
    with Client(server.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "timely", version)
    wait_until(lambda: standby.serial >= server.serial(), ARRIVE_SECONDS, f"{version} arrives")


def set_clock(server: Server, shift: int) -> None:
    """Let a running server go on with another clock."""
    server.stop()
    server.clock_shift = shift
    server.start()


@pytest.mark.parametrize("shift", [-3600, -20, 20, 3600])
def test_a_primary_whose_clock_is_wrong_is_followed_by_its_own_clock(world: World, shift: int) -> None:
    """Tokens are signed for the time that the primary believes in, whatever ours is."""
    server = shifted(world, shift)
    target = world.standby()
    with world.lead_to(server):
        run_here("catchup", *world.options(target))
        assert_replicated(server, target, export=False, fsck=False)


@pytest.mark.parametrize("shift", [-300, -3, 3, 300])
def test_a_proxy_that_replaces_the_primarys_date_by_its_own(world: World, shift: int) -> None:
    """Clone, catchup and follow go on as if it did not, and do not search at each request."""
    server = shifted(world, shift)
    new = Standby(world.folder / "new", world.proxy.url, world.secretfile)
    standby = Standby(world.standby(), world.proxy.url, world.secretfile)
    world.proxy.own_dates = True
    with world.lead_to(server):
        new.clone()
        standby.catchup()
        with standby.follow() as follower:
            change(server, standby, "1.0")
            searched = world.proxy.count("/+changelog")
            change(server, standby, "1.1")
            change(server, standby, "1.2")
            assert world.proxy.count("/+changelog") - searched < 20
            follower.stop()
        new.catchup()
        for one in (new, standby):
            assert_replicated(server, one.serverdir, export=False, fsck=False)


def test_clocks_that_are_set_while_we_follow_behind_such_a_proxy(world: World, tmp_path: Path) -> None:
    """The primary's, then ours, then both, by minutes; and one by hours, which is waited out."""
    clock = ShiftedClock(tmp_path)
    server = shifted(world, 0)
    standby = Standby(world.standby(), world.proxy.url, world.secretfile)
    world.proxy.own_dates = True
    with world.lead_to(server), standby.follow(environment=clock.environment) as follower:
        set_clock(server, -300)
        change(server, standby, "1.0")
        clock.shift(240)
        change(server, standby, "1.1")
        clock.shift(-3000)
        set_clock(server, 300)
        change(server, standby, "1.2")
        set_clock(server, -7200)
        follower.wait_for(lambda: "proxy_pass_header Date;" in follower.text, "it says what may help")
        set_clock(server, 0)
        change(server, standby, "1.3")
        follower.stop()
        assert_replicated(server, standby.serverdir, export=False, fsck=False)


@pytest.mark.parametrize("date", ["own", None, LONG_AGO])
def test_a_primary_whose_time_cannot_be_found_out_is_refused_at_first_contact_alone(
    world: World, date: str | None
) -> None:
    """The operator is told of the clocks; a standby that knows the primary tries for as long as it may."""
    server = shifted(world, -3600)
    target, new = world.standby(), world.folder / "new"
    before = snapshot(target)
    world.proxy.own_dates = date == "own"
    headers = {} if date == "own" else {"Date": date}
    with world.lead_to(server), world.proxy.fault(headers=headers):
        first = run_here("clone", *world.new(new), code=4)
        known = run_here("catchup", *world.options(target, "--patience", 1), code=3)
    assert not new.exists()
    assert_untouched(target, before)
    for said in (first, known):
        assert "NTP" in said.message
        assert "proxy_pass_header Date;" in said.message
