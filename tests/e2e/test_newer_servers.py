"""A primary that was upgraded to devpi-server 7: named at once, nothing written, no word of devpi-fsck."""

import json
from pathlib import Path

from tests.support.client import Client
from tests.support.devpi import Server, run_tool
from tests.support.old_devpi import NEXT_GENERATION, old_release
from tests.support.proxy import Proxy
from tests.support.runs import Outcome, run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby


def named(said: Outcome) -> None:
    """Check that a command says which server it is, and what can be done."""
    assert f"it runs devpi-server {NEXT_GENERATION}" in said.message
    assert "devpi-server 4 to 6" in said.message
    assert "fsck" not in said.message


def test_a_primary_that_is_upgraded_while_we_follow(
    primary: Server, tmp_path: Path, secretfile: Path
) -> None:
    """Each command ends with 4 at the first answer, also where the server kept its UUID."""
    with Client(primary.url).login() as client:
        client.create_index("root/dev")
        client.upload_wheel("root/dev", "first", "1.0")
    upgraded = Server(tmp_path / "seven", secretfile=secretfile, release=old_release(NEXT_GENERATION)).init()
    info = json.dumps({**upgraded.nodeinfo(), "uuid": primary.uuid()})
    (upgraded.serverdir / ".nodeinfo").write_text(info)
    with Proxy(primary.url) as proxy:
        standby = Standby(tmp_path / "standby", proxy.url, secretfile)
        standby.clone()
        before = standby.serial
        with standby.follow() as follower:
            primary.stop()
            upgraded.start()
            proxy.target_url = upgraded.url
            proxy.drop_connections()
            named(follower.end(4))
        assert standby.serial == before
        found = standby.status()
        assert (found["state"], found["divergence"]) == ("stale", None)
        assert f"it runs devpi-server {NEXT_GENERATION}" in found["error"]

        kept = snapshot(standby.serverdir)
        named(standby.catchup(code=4))
        named(run_here("verify", *standby.with_secret, "--level", "primary", code=4))
        assert "--accept-loss" in standby.promote("--dry-run", code=9)["hint"]
        assert standby.promote("--dry-run", "--accept-loss")["reachable"]
        assert_untouched(standby.serverdir, kept)

        new = Standby(tmp_path / "new", proxy.url, secretfile)
        named(new.clone(code=4))
        named(new.clone("--plan", code=4))
        with proxy.fault(headers={"X-DEVPI-SERVER-VERSION": None}):
            assert "a newer devpi-server (it answered 406)" in new.clone(code=4).message
        assert not new.serverdir.exists()
        upgraded.stop()
    assert standby.promote("--dry-run")["lost_serials"] == 0


def test_what_such_a_server_leaves_on_disk_is_no_source(tmp_path: Path, secretfile: Path) -> None:
    """Its serverdir and its dumps are named, before anything is written."""
    release = old_release(NEXT_GENERATION)
    server = Server(tmp_path / "seven", secretfile=secretfile, release=release).init()
    dump = tmp_path / "dump"
    run_tool("devpi-export", "--serverdir", server.serverdir, dump, release=release)
    target = tmp_path / "new"
    for option, source, what in (
        ("--from-serverdir", server.serverdir, "that of devpi-server 7"),
        ("--from-export", dump, f"a dump of devpi-server {NEXT_GENERATION}"),
    ):
        for more in ((), ("--plan",)):
            said = run_here("clone", "--serverdir", target, option, source, *more, code=2)
            assert what in said.message
            assert not target.exists()
