"""File names that need quoting: what any client can fetch arrives, and what none can is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, file_path
from tests.support.content import ODD_NAMES, upload_hash_name
from tests.support.devpi import Server
from tests.support.history import read_history
from tests.support.oracle import assert_equal_history, assert_replicated
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.standby import Standby

CHARACTERS = "%?;&+ é日ß"


def test_odd_names_are_served_by_the_promoted_standby(still: Server, standby: Standby) -> None:
    """Private files and those of a mirror, fetched by URL and found on the simple page."""
    assert set(CHARACTERS) <= set("".join(ODD_NAMES))
    odd = {relpath for relpath in read_history(still.serverdir).live_files if Path(relpath).name in ODD_NAMES}
    for index in ("alice/dev", "root/mirror"):
        names = {Path(relpath).name for relpath in odd if relpath.startswith(f"{index}/")}
        assert names == set(ODD_NAMES), "the primary has them all"
    standby.promote()
    server = Server(standby.serverdir, secretfile=standby.secretfile)
    with server, Client(still.url) as old, Client(server.url) as new:
        for relpath in sorted(odd):
            assert new.fetch(relpath) == old.fetch(relpath), relpath
        assert new.links("alice/dev", "odd") == old.links("alice/dev", "odd")


@pytest.fixture
def hashed(tmp_path: Path, secretfile: Path) -> Iterator[tuple[Server, str]]:
    """A primary with a file whose name has a `#`, which it cannot deliver to anybody; and the file."""
    with Server(tmp_path / "primary", secretfile=secretfile).init() as primary:
        with Client(primary.url).login() as client:
            client.create_index("root/dev", volatile=True)
            relpath = upload_hash_name(client, "root/dev")
            client.upload_wheel("root/dev", "behind", "1.0")
            client.request("GET", file_path(relpath), expect=404)
        yield primary, relpath


def test_a_name_that_nobody_can_fetch_is_a_fault_and_no_loop(
    hashed: tuple[Server, str], tmp_path: Path, secretfile: Path
) -> None:
    """The file is named, never asked for, and serials go on; operators can bring it by other means."""
    primary, relpath = hashed
    with Proxy(primary.url) as proxy, Client(primary.url).login() as client:
        standby = Standby(tmp_path / "standby", proxy.url, secretfile)
        said = standby.clone()
        assert "1 missing (see" in said.stdout
        check_fault(standby, primary, relpath)
        again = upload_hash_name(client, "root/dev")  # the same file: a change all the same
        client.upload("root/dev", "hashed", "2.0", ("hashed-2.0#.zip", b"PK\x05\x06" + bytes(18)))
        standby.catchup()
        assert again == relpath
        assert len(standby.faults()) == 2
        with standby.follow() as follower:
            follower.stop()
        run_here("faults", "retry", *standby.own)
        standby.catchup()
        check_fault(standby, primary, relpath)
        asked = proxy.paths("/root/dev/")
        assert [path for path in asked if "hashed" in path or "#" in path] == []
        assert len(asked) == 1, "the file behind it was fetched, once"
        assert len(proxy.requests) < 40, "it does not loop"
        # By other means: from the primary's disk, as an operator would.
        for fault in standby.faults():
            content = (primary.serverdir / "+files" / fault).read_bytes()
            target = standby.serverdir / "+files" / fault
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        run_here("faults", "retry", *standby.own)
        standby.catchup()
    assert standby.faults() == {}
    assert_replicated(primary, standby.serverdir)


def check_fault(standby: Standby, primary: Server, relpath: str) -> None:
    """Check that the file is the fault that it should be, and that all serials are there."""
    fault = standby.faults()[relpath]
    assert fault["kind"] == "unfetchable"
    assert "#" in fault["reason"]
    assert relpath in run_here("faults", "list", *standby.own).stdout
    found = standby.status()
    assert (found["state"], found["files_missing"]) == ("current", len(standby.faults()))
    assert_equal_history(primary.serverdir, standby.serverdir)
