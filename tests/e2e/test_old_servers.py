"""Primaries from before the streamed changelog: the same standby, by the endpoints that they have."""

from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.content import build_wheel, populate_basics
from tests.support.devpi import Server
from tests.support.oracle import assert_fsck, assert_replicated
from tests.support.proxy import Proxy
from tests.support.standby import Standby
from tests.support.waiting import wait_until

OLD = {"blocks": "primary_before_streaming", "single entries": "primary_before_blocks"}


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest) -> Server:
    """A primary that sends blocks (before 6.5.0), then one that sends single entries (before 4.9.0)."""
    server: Server = request.getfixturevalue(OLD[request.param])
    populate_basics(server)
    return server


def asked(proxy: Proxy) -> tuple[int, int]:
    """Return how many requests went to the endpoint of many entries, and to that of one."""
    paths = [path.partition("?")[0] for path in proxy.paths("/+changelog/")]
    many = sum(path.endswith("-") for path in paths)
    return many, len(paths) - many


def test_an_old_primary_is_replicated_and_its_standby_takes_its_place(
    old: Server, tmp_path: Path, secretfile: Path
) -> None:
    """Clone, catchup and follow are exact, and the promoted standby runs on the very release."""
    blocks = old.release.version >= (4, 9)
    # Before 6.13 nobody knew the word primary.
    assert "X-DEVPI-PRIMARY-UUID" not in old.headers()
    with Proxy(old.url) as proxy, Client(old.url) as client:
        standby = Standby(tmp_path / "standby", proxy.url, secretfile)
        standby.clone()
        many, one = asked(proxy)
        if blocks:
            assert one < old.serial(), "only to see who is there"
        else:
            assert many <= 2, "what it does not have is not asked for each time"
            assert one > old.serial()
        check(old, standby)
        client.login("basic", "secret")
        client.upload_wheel("basic/dev", "thing", "1.0", b"replaced again")
        client.delete_project("basic/dev", "odd")
        standby.catchup()
        check(old, standby)
        with standby.follow() as follower:
            client.register("basic/dev", "followed", "1.0")
            client.upload_wheel("basic/dev", "followed", "1.0")
            wait_until(lambda: standby.serial >= old.serial(), 30, "the change arrives")
            follower.stop()
        check(old, standby)
    serial = old.serial()
    standby.promote()
    with Server(standby.serverdir, secretfile=secretfile, release=old.release) as server:
        assert server.serial() == serial
        assert server.uuid() != old.uuid()
        with Client(server.url) as client:
            client.login("basic", "secret")
            files = client.links("basic/dev", "followed")
            name, content = build_wheel("followed", "1.0")
            assert client.fetch(files[name]) == content
            client.upload_wheel("basic/dev", "followed", "1.0", b"by the promoted one")
        assert server.serial() > serial
    assert_fsck(standby.serverdir, release=old.release if blocks else None)


def check(old: Server, standby: Standby) -> None:
    """Check the standby by the oracle; blocks are re-encoded by the server that sends them."""
    reencoded = old.release.version >= (4, 9)
    assert_replicated(old, standby.serverdir, export=False, fsck=False, reencoded=reencoded)
    info = Server(standby.serverdir).nodeinfo()
    # The release of the primary looks for the one name, those of today for either.
    assert info["master-uuid"] == info["primary-uuid"] == old.uuid()
