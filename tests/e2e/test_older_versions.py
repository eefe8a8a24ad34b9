"""Standbys that older versions made are followed, verified and promoted by this one.

tests/data/older_versions.tar.xz has a primary at serial 6 and two standbys of it, at rest: `first-tables` was
made by 0.1.0 as of commit 7952347, with the first form of our tables, and `0f66605` by that commit, with the
fourth. Both were cloned at serial 4; what came behind deleted a version, and left its file in the retained
folder.
"""

import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.client import PASSWORD, Client
from tests.support.damage import edit_row
from tests.support.devpi import Server
from tests.support.history import connect
from tests.support.oracle import assert_replicated
from tests.support.standby import Standby

KEPT = Path(__file__).parents[1] / "data" / "older_versions.tar.xz"
VERSIONS = {"first-tables": "0001", "0f66605": "0004"}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folders that older versions left."""
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path / "kept", filter="data")
    return tmp_path / "kept"


@pytest.fixture
def ahead(kept: Path, secretfile: Path) -> Iterator[Server]:
    """Their primary, at another address by now, which has committed more since."""
    with Server(kept / "primary", secretfile=secretfile) as server:
        with Client(server.url).login("alice", PASSWORD) as alice:
            alice.upload_wheel("alice/dev", "pkg", "4.0")
        yield server


def alter(standby: Standby) -> None:
    """Change a value in an old entry, which stays a good one by itself."""
    edit_row(standby.serverdir, 1, lambda changes: changes["alice/.config"][2].update(title="another"))


@pytest.mark.parametrize("name", VERSIONS)
def test_a_standby_of_an_older_version_is_followed_verified_and_promoted(
    kept: Path, ahead: Server, secretfile: Path, name: str
) -> None:
    standby = Standby(kept / name, ahead.url, secretfile)
    with closing(connect(standby.serverdir)) as database:
        assert database.execute("SELECT version_num FROM replisync_schema").fetchall() == [(VERSIONS[name],)]
    standby.catchup("--primary-url", ahead.url)
    assert standby.serial == ahead.serial() > 6
    assert_replicated(ahead, standby.serverdir, fsck=False)
    alter(standby)
    assert standby.verify("full")["findings"] == []
    assert [found["serial"] for found in standby.verify("primary", code=8)["findings"]] == [1]
    assert standby.verify("primary", "--repair")["outcome"] == "repaired"
    alter(standby)
    assert [found["kind"] for found in standby.verify("full", code=8)["findings"]] == ["other-entry"]
    assert standby.verify("full", "--repair")["outcome"] == "repaired"
    assert_replicated(ahead, standby.serverdir, export=False)
    standby.rewind(5)
    standby.catchup()
    assert standby.verify("full")["findings"] == []
    assert standby.promote()["serial"] == ahead.serial()
    with Server(standby.serverdir) as promoted, Client(promoted.url).login("alice", PASSWORD) as alice:
        alice.upload_wheel("alice/dev", "pkg", "5.0")
