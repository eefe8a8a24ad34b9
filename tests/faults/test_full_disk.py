"""A disk that is full, or write-protected: exit 7, and the same command finishes when that was mended."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import World
from tests.support.disk import SmallDisk, small_disk
from tests.support.oracle import assert_files, assert_replicated
from tests.support.runs import Background, run_here
from tests.support.snapshot import assert_promotable, assert_untouched, last_serial, snapshot

PLENTY_KIB = 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system with room for everything, until the test changes that."""
    with small_disk(tmp_path / "disk", PLENTY_KIB) as disk:
        yield disk


def moved_to(disk: SmallDisk, world: World) -> Path:
    """Return a standby on the disk."""
    return Path(shutil.copytree(world.standby("template"), disk.root / "standby"))


def test_a_disk_that_is_full_during_a_clone(world: World, disk: SmallDisk) -> None:
    """Wherever it happens, in the metadata or in the files, the clone resumes when there is room."""
    target = disk.root / "new"
    failed_at = set()
    for kib in (8, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072):
        disk.resize(kib)
        said = run_here("clone", *world.new(target, "--file-replication-threads", 2), code=7)
        assert "make room" in said.message.lower()
        assert not (target / ".nodeinfo").exists()
        failed_at.add(tuple(line["event"] for line in said.logs))
    assert {(), ("metadata",), ("files",)} <= failed_at
    disk.resize(PLENTY_KIB)
    run_here("clone", *world.new(target))
    assert_replicated(world.primary, target, export=False)


@pytest.mark.parametrize("left", [0, 8_000, 40_000, 100_000, 300_000])
def test_a_disk_that_is_full_during_a_catchup(world: World, disk: SmallDisk, left: int) -> None:
    """The standby stays promotable at the serial that it has."""
    target = moved_to(disk, world)
    before = snapshot(target)
    filler = disk.fill(left)
    said = run_here("catchup", *world.options(target), code=7)
    assert "make room" in said.message.lower()
    assert left < 40_000 or " at serial " in said.message  # below, nothing can be begun
    if assert_promotable(target, world.primary.serverdir) == world.early_serial and left == 0:
        assert_untouched(target, before)
    filler.unlink()
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)
    assert not list((target / ".replisync" / "tmp").iterdir())


def test_a_disk_that_is_full_while_we_follow(world: World, disk: SmallDisk) -> None:
    """A follower waits until there is room again, and goes on by itself."""
    target = moved_to(disk, world)
    filler = disk.fill(60_000)
    with Background(world.folder / "follow.log", "follow", *world.options(target)) as follower:
        follower.wait_for_log("retrying")
        assert "make room" in follower.text
        assert_promotable(target, world.primary.serverdir)
        filler.unlink()
        follower.wait_for(lambda: last_serial(target) == world.serial, "it has caught up")
        follower.stop()
    assert_replicated(world.primary, target, export=False, fsck=False)


@pytest.mark.parametrize("command", ["clone", "catchup"])
def test_a_disk_that_is_read_only(world: World, disk: SmallDisk, command: str) -> None:
    """The message says so, and nothing is changed."""
    if command == "clone":
        target = disk.root / "new"
        disk.protect()
        said = run_here(command, *world.new(target), code=7)
    else:
        target = moved_to(disk, world)
        before = snapshot(target)
        disk.protect()
        said = run_here(command, *world.options(target), code=7)
        assert_untouched(target, before)
    assert "read-only" in said.message
    disk.unprotect()
    run_here(command, *(world.new(target) if command == "clone" else world.options(target)))
    assert_files(world.primary.serverdir, target)
