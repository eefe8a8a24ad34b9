"""Files that the primary, or the way to it, does not deliver as promised."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.faults.conftest import MIRRORED, World
from tests.support.history import read_history
from tests.support.oracle import assert_replicated
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Outcome, run_here
from tests.support.snapshot import assert_promotable, last_serial
from tests.support.upstream import Upstream

PRIVATE_FILES = "/alice/dev/%2Bf/"
MIRROR_FILES = "/root/mirror/%2B"
IMPATIENT = ("--patience", 1)


def find(world: World, name: str) -> tuple[str, int]:
    """Return relpath and serial of a file that the standby lacks."""
    latest = read_history(world.primary.serverdir).latest()
    [found] = [(path, serial) for path, (_, serial, _) in latest.items() if path.endswith(f"/{name}")]
    assert found[1] > world.early_serial
    return found


@pytest.fixture
def private(world: World) -> tuple[str, int]:
    """A private file that the standby lacks."""
    return find(world, "late-1.2-py3-none-any.whl")


@pytest.fixture
def mirrored(world: World) -> tuple[str, int]:
    """A mirror's file that the standby lacks."""
    return find(world, MIRRORED[1])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def faults(target: Path) -> list[dict[str, Any]]:
    """Return what `faults list` says."""
    found: list[dict[str, Any]] = json.loads(
        run_here("faults", "list", "--serverdir", target, "--json").stdout
    )
    return found


def held_back(world: World, target: Path, serial: int, *more: object) -> Outcome:
    """Catch up where a file cannot be had that a serial needs; check that the standby stays before it."""
    said = run_here("catchup", *world.options(target, *IMPATIENT, *more), code=3)
    assert assert_promotable(target, world.primary.serverdir) < serial
    return said


def test_a_private_file_that_is_damaged_on_the_primary(world: World, private: tuple[str, int]) -> None:
    """Its serial waits for it, and comes with it when the primary was mended."""
    relpath, serial = private
    target = world.standby()
    server = world.copied()
    flip(server.serverdir / "+files" / relpath)
    with world.lead_to(server):
        said = held_back(world, target, serial)
        assert relpath in said.message
        assert f"at serial {serial}" in said.message
        assert "its sha256 is" in said.message
        [fault] = faults(target)
        assert (fault["relpath"], fault["serial"], fault["kind"]) == (relpath, serial, "held")
        assert "held" in run_here("faults", "list", "--serverdir", target).stdout
        flip(server.serverdir / "+files" / relpath)
        run_here("catchup", *world.options(target))
        assert_replicated(server, target, export=False, fsck=False)
        assert faults(target) == []


def test_a_held_serial_does_not_hold_those_before_it(world: World, private: tuple[str, int]) -> None:
    """Everything before the serial that waits is applied."""
    relpath, serial = private
    target = world.standby()
    with world.proxy.fault(path=f"/{quote(relpath)}", flip_at=100):
        held_back(world, target, serial)
    assert last_serial(target) == serial - 1


def test_a_clone_of_a_primary_with_a_damaged_file(world: World, private: tuple[str, int]) -> None:
    """It fetches all others, ends with 3 and no .nodeinfo, and finishes when the primary was mended."""
    relpath, _ = private
    target = world.folder / "new"
    server = world.copied()
    flip(server.serverdir / "+files" / relpath)
    with world.lead_to(server):
        said = run_here("clone", *world.new(target, *IMPATIENT), code=3)
        assert relpath in said.message
        assert [fault["relpath"] for fault in faults(target)] == [relpath]
        assert not (target / ".nodeinfo").exists()
        status = json.loads(run_here("status", "--serverdir", target, "--json").stdout)
        assert (status["state"], status["files_missing"], status["faults"]) == ("cloning", 1, 1)
        flip(server.serverdir / "+files" / relpath)
        run_here("clone", *world.new(target))
        assert_replicated(server, target, export=False, fsck=False)


def test_a_private_file_that_the_primary_lost(world: World, private: tuple[str, int]) -> None:
    """Its serial waits until the operator says that the standby shall go on without it."""
    relpath, serial = private
    target = world.standby()
    server = world.copied()
    (server.serverdir / "+files" / relpath).unlink()
    with world.lead_to(server):
        said = held_back(world, target, serial)
        assert relpath in said.message
        assert "404" in said.message
        run_here("faults", "skip", "--serverdir", target, relpath)
        run_here("catchup", *world.options(target))
    assert last_serial(target) == world.serial
    assert [fault["kind"] for fault in faults(target)] == ["skipped"]


def test_a_mirrors_file_that_is_damaged_on_the_primary(world: World, mirrored: tuple[str, int]) -> None:
    """It is named, the serials go on, and it comes with a later retry."""
    relpath, serial = mirrored
    target = world.standby()
    server = world.copied()
    flip(server.serverdir / "+files" / relpath)
    with world.lead_to(server):
        run_here("catchup", *world.options(target))
        assert last_serial(target) == world.serial
        [fault] = faults(target)
        assert (fault["relpath"], fault["serial"], fault["kind"]) == (relpath, serial, "mirror")
        assert not (target / "+files" / relpath).exists()
        flip(server.serverdir / "+files" / relpath)
        run_here("faults", "retry", "--serverdir", target)
        run_here("catchup", *world.options(target))
        assert_replicated(server, target, export=False, fsck=False)
        assert faults(target) == []


def test_a_mirrors_file_that_its_upstream_does_not_give(
    world: World, mirrored: tuple[str, int], populated_upstream: Upstream
) -> None:
    """The primary itself answers 502: no serial waits for what only the upstream can give."""
    relpath, _ = mirrored
    target = world.standby()
    server = world.copied()
    with world.lead_to(server):
        (server.serverdir / "+files" / relpath).unlink()
        populated_upstream.failing = 503
        try:
            run_here("catchup", *world.options(target))
        finally:
            populated_upstream.failing = None
        assert last_serial(target) == world.serial
        assert [fault["kind"] for fault in faults(target)] == ["mirror"]
        run_here("faults", "retry", "--serverdir", target)
        run_here("catchup", *world.options(target))
        assert_replicated(server, target, export=False, fsck=False)


@pytest.mark.parametrize(
    "effects",
    [
        {"content_length_delta": 1},
        {"content_length_delta": -1},
        {"cut_after": 1_000},
        {"reset_after": 1_000},
        {"flip_at": 1_000},
        {"garbage_at": 1_000},
        {"insert_at": 1_000},
        {"stall_after": 1_000},
        {"delay_seconds": 2},
        {"reset": True},
        {"disconnect": True},
        {"status": 500},
        {"status": 502},
        {"status": 503},
        {"status": 504},
    ],
    ids=str,
)
def test_a_download_that_fails_is_repeated(world: World, effects: dict[str, int]) -> None:
    """Nothing that is cut, longer, shorter or other than promised comes to its place."""
    target = world.standby()
    fault = world.proxy.add(Fault(path=PRIVATE_FILES, times=1, **effects))  # type: ignore[arg-type]
    run_here("catchup", *world.options(target, "--request-timeout", 1))
    assert fault.done == 1
    assert_replicated(world.primary, target, export=False, fsck=False)
    assert not list((target / ".replisync" / "tmp").iterdir())
    assert faults(target) == []


@pytest.mark.parametrize("path", [PRIVATE_FILES, MIRROR_FILES])
@pytest.mark.parametrize("status", [302, 403, 404, 410, 500, 503])
def test_a_proxy_that_refuses_files(world: World, path: str, status: int) -> None:
    """It is no word of the primary: private files hold their serials, a mirror's are faults until a retry."""
    target = world.standby()
    with Proxy(world.primary.url) as elsewhere:
        with world.proxy.fault(path=path, status=status, location=f"{elsewhere.url}/file"):
            code = 3 if path == PRIVATE_FILES else 0
            run_here("catchup", *world.options(target, *IMPATIENT), code=code)
        assert not elsewhere.requests, "our token went to another host"
    found = faults(target)
    assert {fault["kind"] for fault in found} == {"held" if path == PRIVATE_FILES else "mirror"}
    words = f"the answer was {status}, without the headers of a devpi-server"
    assert all(words in fault["reason"] for fault in found)
    if path == PRIVATE_FILES:
        assert_promotable(target, world.primary.serverdir)
    run_here("faults", "retry", "--serverdir", target)
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)
    assert faults(target) == []


def test_a_proxy_that_lets_nothing_but_the_changelog_through(world: World) -> None:
    """Where the primary does not say who it is either, it is everybody's trouble, and no file is a fault."""
    target = world.standby()
    with (
        world.proxy.fault(path=PRIVATE_FILES, status=503),
        world.proxy.fault(path=r"/\+api", status=503),
    ):
        run_here("catchup", *world.options(target, *IMPATIENT), code=3)
    assert faults(target) == []


def test_a_file_that_another_server_declares_deleted(world: World) -> None:
    """Who answers is checked for files as well: the file is not given up."""
    target = world.standby()
    other = "0" * 32
    headers: dict[str, str | None] = {
        "X-DEVPI-UUID": other,
        "X-DEVPI-PRIMARY-UUID": other,
        "X-DEVPI-SERIAL": "7",
    }
    with world.proxy.fault(path=PRIVATE_FILES, status=410, headers=headers):
        said = run_here("catchup", *world.options(target, *IMPATIENT), code=3)
    assert "another devpi-server answered 410" in said.message
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_redirects_of_the_primary_itself(world: World) -> None:
    """Where the primary sends clients of a private file elsewhere, nobody else sees our token."""
    target = world.standby()
    headers: dict[str, str | None] = {
        "X-DEVPI-UUID": world.primary.uuid(),
        "X-DEVPI-PRIMARY-UUID": world.primary.uuid(),
        "X-DEVPI-SERIAL": str(world.serial),
    }
    with Proxy(world.primary.url) as elsewhere:
        fault = world.proxy.fault(
            path=PRIVATE_FILES, status=302, location=f"{elsewhere.url}/file", headers=headers
        )
        with fault:
            run_here("catchup", *world.options(target, *IMPATIENT), code=3)
        assert not elsewhere.requests
    assert_promotable(target, world.primary.serverdir)
