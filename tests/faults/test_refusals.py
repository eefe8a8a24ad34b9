"""A primary that understands us and says no: exit 4, a line that says why, and nothing written."""

import json

import pytest

from tests.faults.conftest import World
from tests.support.devpi import Server, make_secret
from tests.support.proxy import Proxy
from tests.support.runs import Outcome, run_here
from tests.support.snapshot import assert_untouched, snapshot

COMMANDS = ("clone", "catchup", "follow")
# What an answer without devpi's headers ends each with: at the first contact at once, later after a while.
UNKNOWN = (("clone", (), 4), ("catchup", ("--patience", "1"), 3), ("follow", ("--timeout", "1"), 3))


def refused(world: World, command: str, *more: object, code: int = 4) -> Outcome:
    """Run a command that must end with 4, or so, and leave its target as it is; return what it said."""
    if command == "clone":
        target = world.folder / "new"
        said = run_here(command, *world.new(target, *more), code=code)
        assert not target.exists(), "a refused clone left something"
        return said
    target = world.standby()
    before = snapshot(target)
    said = run_here(command, *world.options(target, *more), code=code)
    assert_untouched(target, before)
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_secret(world: World, command: str) -> None:
    """Another secret than the primary's is named as the cause."""
    wrong = make_secret(world.folder / "wrong" / "secret")
    said = refused(world, command, "--secretfile", wrong)
    assert "does not accept our secret" in said.message
    assert wrong.read_text() not in said.message


def test_a_server_that_is_no_primary(world: World) -> None:
    """A standalone server refuses to be replicated."""
    standalone = world.copied("standalone")
    standalone.role = "standalone"
    with world.lead_to(standalone):
        said = refused(world, "catchup")
    assert "its role is not primary" in said.message


def test_a_replica_under_the_primarys_name(world: World) -> None:
    """A clone of it is refused; who knows the primary waits for the primary itself."""
    folder, url = world.standby("replica"), world.primary.url
    replica = Server(folder, role="replica", primary_url=url, secretfile=world.secretfile)
    nodeinfo = {**replica.nodeinfo(), "uuid": "0" * 32}
    (folder / ".nodeinfo").write_text(json.dumps(nodeinfo))
    with world.lead_to(replica):
        said = refused(world, "clone")
        assert "it is a replica, not the primary itself. Give the URL of its primary" in said.message
        target = world.standby()
        before = snapshot(target)
        commands: dict[str, tuple[object, ...]] = {"catchup": (), "verify": ("--level", "primary")}
        for command, more in commands.items():
            options = world.options(target, *more, "--patience", "1")
            said = run_here(command, *options, code=3)
            assert f"a replica of the primary (UUID {replica.uuid()}) answers" in said.message
            assert_untouched(target, before)


@pytest.mark.parametrize(("command", "more", "code"), UNKNOWN)
@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_proxy_that_blocks_the_changelog(
    world: World, command: str, more: tuple[str, ...], code: int, status: int
) -> None:
    """The operator learns which route a proxy must let through; a known primary may come back."""
    with world.proxy.fault(path=r"/\+changelog", status=status):
        said = refused(world, command, *more, code=code)
    assert f"it answered {status}" in said.message
    assert "/+changelog" in said.message


@pytest.mark.parametrize("changes", [{"Authorization": None}, {"X-DEVPI-REPLICA-UUID": None}])
def test_a_proxy_that_removes_what_identifies_us(world: World, changes: dict[str, str | None]) -> None:
    """A token that does not arrive is not reported as a wrong one."""
    with world.proxy.fault(path=r"/\+changelog", request_headers=changes):
        said = refused(world, "catchup")
    assert "our token did not reach it" in said.message


def test_a_proxy_that_removes_the_headers_of_devpi(world: World) -> None:
    """Without knowing who answers nothing is applied."""
    names = ("X-DEVPI-PRIMARY-UUID", "X-DEVPI-MASTER-UUID", "X-DEVPI-SERIAL")
    with world.proxy.fault(headers=dict.fromkeys(names)):
        said = refused(world, "catchup")
    assert "X-DEVPI-PRIMARY-UUID" in said.message


def test_a_proxy_that_compresses(world: World) -> None:
    """Compressed answers to requests that asked for none are refused, not stored."""
    with world.proxy.fault(path=r"/\+changelog/\d+-", headers={"Content-Encoding": "gzip"}):
        said = refused(world, "catchup")
    assert "compress" in said.message


def test_a_redirect_gets_no_token(world: World) -> None:
    """The changelog is not asked of another host that the answer names."""
    with Proxy(world.primary.url) as elsewhere:
        with world.proxy.fault(path=r"/\+changelog", status=302, location=f"{elsewhere.url}/+changelog/0"):
            said = refused(world, "catchup", "--patience", "1", code=3)
        assert "redirects" in said.message
        assert not elsewhere.requests
