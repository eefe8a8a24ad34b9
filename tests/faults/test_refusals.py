"""A primary that understands us and says no: exit 4, a line that says why, and nothing written."""

import pytest

from tests.faults.conftest import World
from tests.support.devpi import Server, make_secret
from tests.support.proxy import Proxy
from tests.support.runs import Outcome, run_here
from tests.support.snapshot import assert_untouched, snapshot

COMMANDS = ("clone", "catchup", "follow")


def refused(world: World, command: str, *more: object) -> Outcome:
    """Run a command that must end with 4 and leave its target as it is; return what it said."""
    if command == "clone":
        target = world.folder / "new"
        said = run_here(command, *world.new(target, *more), code=4)
        assert not target.exists(), "a refused clone left something"
        return said
    target = world.standby()
    before = snapshot(target)
    said = run_here(command, *world.options(target, *more), code=4)
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
    """A standalone server, and a replica of the very primary, refuse to be replicated."""
    standalone = world.copied("standalone")
    standalone.role = "standalone"
    replica = Server(
        world.standby("replica"), role="replica", primary_url=world.primary.url, secretfile=world.secretfile
    )
    for number, (server, why) in enumerate(
        ((standalone, "its role is not primary"), (replica, "it is a replica, not the primary itself"))
    ):
        target = world.standby(f"standby{number}")
        before = snapshot(target)
        with world.lead_to(server):
            said = run_here("catchup", *world.options(target), code=4)
        assert why in said.message
        assert_untouched(target, before)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_proxy_that_blocks_the_changelog(world: World, command: str, status: int) -> None:
    """The operator learns which route a proxy must let through."""
    with world.proxy.fault(path=r"/\+changelog", status=status):
        said = refused(world, command)
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
            said = refused(world, "catchup")
        assert "redirects" in said.message
        assert not elsewhere.requests
