"""A primary whose database is damaged: all before the damage is applied, the message names its serial."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import World
from tests.support.damage import edit_row, remove_row, replace_row
from tests.support.history import read_history, serialize
from tests.support.oracle import assert_replicated
from tests.support.proxy import Fault
from tests.support.runs import Outcome, run_here
from tests.support.snapshot import assert_promotable, last_serial

CHANGES = r"/\+changelog/\d+-"
STREAM, BATCH, SINGLE = "stream", "batch", "single"
# Back from the last serial, so that something good comes before and after.
BEHIND = 4

Damage = Callable[[Path, int], None]


def emptied(serverdir: Path, serial: int) -> None:
    """What old advice for a broken changelog leaves."""
    replace_row(serverdir, serial, b"")


def truncated(serverdir: Path, serial: int) -> None:
    """The beginning of an entry."""
    replace_row(serverdir, serial, read_history(serverdir).changelog[serial][:-40])


def overwritten(serverdir: Path, serial: int) -> None:
    """Bytes that are no value at all."""
    replace_row(serverdir, serial, b"\xde\xad\xbe\xef" * 100)


def not_an_entry(serverdir: Path, serial: int) -> None:
    """A value, but not that of an entry."""
    replace_row(serverdir, serial, serialize(["neither", {"changes": None}]))


def add_key(relpath: str, keyname: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a change of an entry that sets one more key."""

    def add(changes: dict[str, Any]) -> None:
        changes[relpath] = (keyname, -1, value)

    return add


def caught_up(world: World, target: Path, *, reencoded: bool = False) -> Outcome:
    """Catch up with a damaged primary; check that what the standby has then is good."""
    said = run_here("catchup", *world.options(target, "--patience", 60), code=5)
    assert_promotable(target, world.primary.serverdir, reencoded=reencoded)
    return said


@pytest.mark.parametrize(
    ("protocol", "damage"),
    [
        (STREAM, emptied),
        (STREAM, remove_row),
        (STREAM, truncated),
        (STREAM, overwritten),
        (STREAM, not_an_entry),
        (BATCH, remove_row),
        (BATCH, not_an_entry),
        (SINGLE, truncated),
        (SINGLE, remove_row),
        (SINGLE, not_an_entry),
    ],
)
def test_a_damaged_entry(world: World, protocol: str, damage: Damage) -> None:
    """The standby stops right before it, whichever way the changelog comes."""
    serial = world.serial - BEHIND
    server = world.copied()
    damage(server.serverdir, serial)
    if protocol == BATCH:
        world.proxy.look_like_before_streaming()
    elif protocol == SINGLE:
        world.proxy.look_like_before_blocks()
    target = world.standby()
    with world.lead_to(server):
        said = caught_up(world, target, reencoded=protocol == BATCH)
    assert f"at serial {serial}" in said.message
    assert last_serial(target) == serial - 1


def test_a_clone_of_a_damaged_primary(world: World) -> None:
    """It ends with 5 and no .nodeinfo, and finishes when the primary was mended."""
    serial = world.early_serial
    server = world.copied()
    good = read_history(server.serverdir).changelog[serial]
    emptied(server.serverdir, serial)
    target = world.folder / "new"
    with world.lead_to(server):
        said = run_here("clone", *world.new(target), code=5)
        assert f"at serial {serial}" in said.message
        assert last_serial(target) == serial - 1
        assert not (target / ".nodeinfo").exists()
    replace_row(server.serverdir, serial, good)
    with server:
        run_here("clone", *world.new(target))
        assert_replicated(server, target, export=False, fsck=False)


OUTSIDE = Path("/tmp/replisync-was-here")  # noqa: S108 - that nothing writes it is the point
ESCAPES = (
    "alice/dev/../../../outside",
    "../../outside",
    str(OUTSIDE),
    "alice/dev/+f/./outside",
    "alice//outside",
    "alice/dev/+f/with\0nul",
    "..",
    "",
)


def test_a_path_that_leads_out_of_the_serverdir(world: World) -> None:
    """An entry that names a file elsewhere is stored, nothing is written there, and what follows comes."""
    value = {"last_modified": "Sun, 22 Nov 2026 11:39:23 GMT", "hash_spec": "", "project": "p"}
    with world.lead_to(world.copied()) as server:
        for relpath in ESCAPES:
            edit_row(server.serverdir, world.serial - BEHIND, add_key(relpath, "STAGEFILE", value))
        around = set(world.folder.iterdir())
        target, new = world.standby(), world.folder / "new"
        run_here("catchup", *world.options(target))
        run_here("clone", *world.new(new))
        assert set(world.folder.iterdir()) == {*around, target, new}
        assert not OUTSIDE.exists()
        for one in (target, new):
            assert last_serial(one) == world.serial
            assert not [path for path in one.rglob("*") if path.name.startswith(("outside", "with"))]
            listed = json.loads(run_here("faults", "list", "--serverdir", one, "--json").stdout)
            assert {fault["relpath"]: fault["kind"] for fault in listed} == dict.fromkeys(
                ESCAPES, "unfetchable"
            )


@pytest.mark.parametrize(
    "effects",
    [
        {"garbage_at": 0},  # the first serial
        {"garbage_at": 6},  # the first entry
        {"insert_at": 3_000},
        {"flip_at": 4},  # the number of the first serial
        {"flip_at": 6},  # an opcode
    ],
    ids=str,
)
def test_garbage_on_the_way(world: World, effects: dict[str, int]) -> None:
    """Bytes that are no changelog end the run at the last good serial; the next run goes on."""
    target = world.standby()
    with world.proxy.fault(path=CHANGES, **effects):
        said = caught_up(world, target)
    assert f"at serial {last_serial(target) + 1}" in said.message
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_garbage_inside_of_text(world: World) -> None:
    """Text that is no UTF-8 would break devpi-server on the standby: it is not applied."""
    target = world.standby()
    with world.proxy.fault(path=CHANGES, garbage_at=3_000):
        caught_up(world, target)
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_a_follower_stops_at_garbage(world: World) -> None:
    """Damage does not pass by itself: follow ends with 5 too, instead of trying for ever."""
    target = world.standby()
    world.proxy.add(Fault(path=CHANGES, garbage_at=6))
    said = run_here("follow", *world.options(target), code=5)
    assert f"at serial {world.early_serial + 1}" in said.message
    assert assert_promotable(target, world.primary.serverdir) == world.early_serial
