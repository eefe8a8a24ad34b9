"""Files that are found on this machine do not come over the network."""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.history import files_below, read_history
from tests.support.oracle import assert_files, assert_replicated, export
from tests.support.packages import build_zip
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.standby import Standby

SEARCH = "--replica-file-search-path"


def requested(proxy: Proxy) -> list[str]:
    """Return the files that were asked for."""
    paths = [unquote(request.path) for request in proxy.requests]
    return [path for path in paths if "/+f/" in path or "/+e/" in path]


def findable(serverdir: Path) -> int:
    """Return how many live files the primary itself has, and has a digest of."""
    live = read_history(serverdir).live_files
    return sum(
        1 for path, meta in live.items() if meta["hash_spec"] and (serverdir / "+files" / path).is_file()
    )


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory, populated_serverdir: Path) -> Path:
    """A dump of the primary, without what it keeps of mirrors; change nothing in it."""
    return export(populated_serverdir, tmp_path_factory.mktemp("dump") / "dump", mirrored=False)


@pytest.mark.parametrize("place", ["serverdir", "+files"])
@pytest.mark.parametrize("links", [False, True])
def test_a_clone_takes_its_files_from_an_old_serverdir(
    still: Server, proxy: Proxy, tmp_path: Path, secretfile: Path, place: str, links: bool
) -> None:
    """Nothing that has a digest is asked for; the result is what a clone over the network is."""
    folder = still.serverdir / "+files" if place == "+files" else still.serverdir
    standby = Standby(tmp_path / "new", proxy.url, secretfile)
    local = findable(still.serverdir)
    said = standby.clone(SEARCH, folder, *(("--hard-links",) if links else ()))
    here = list(files_below(standby.serverdir / "+files"))
    assert len(here) - local == len(requested(proxy)) < 5
    assert f"{local} of them from this machine" in said.stdout
    assert standby.status()["last_run"]["local"] == local
    shared = [path for path in here if _samefile(still, standby, path)]
    assert bool(shared) is links
    assert_replicated(still, standby.serverdir, export=False)


def _samefile(server: Server, standby: Standby, path: str) -> bool:
    theirs = server.serverdir / "+files" / path
    return theirs.is_file() and theirs.samefile(standby.serverdir / "+files" / path)


def test_a_clone_takes_its_files_from_a_dump_and_only_the_right_ones(
    still: Server, proxy: Proxy, tmp_path: Path, secretfile: Path, dump: Path
) -> None:
    """What differs from its digest, in whatever folder, comes from the primary as if it were not there."""
    spoiled = shutil.copytree(dump, tmp_path / "dump")
    for path in spoiled.rglob("*.doc.zip"):
        path.write_bytes(b"x" * path.stat().st_size)
    for path in spoiled.rglob("*.toxresult-*"):
        path.unlink()
    standby = Standby(tmp_path / "new", proxy.url, secretfile)
    standby.clone(SEARCH, tmp_path, SEARCH, spoiled, "--hard-links")
    asked = {Path(path).name for path in requested(proxy)}
    here = {Path(path).name for path in files_below(standby.serverdir / "+files")}
    assert {name for name in here if ".doc.zip" in name or ".toxresult" in name} <= asked
    private = [path for path in files_below(spoiled) if path != "dataindex.json"]
    assert 0 < standby.status()["last_run"]["local"] <= len(private)
    assert len(requested(proxy)) < len(here)
    assert_replicated(still, standby.serverdir, export=False)


def test_catchup_and_follow_take_files_from_here_too(
    populated: Server, standby: Standby, tmp_path: Path, secretfile: Path
) -> None:
    """Found by its digest alone, whatever it is called where it lies; counted apart from the downloads."""
    mine = Standby(standby.serverdir, populated.url, secretfile)
    with Client(populated.url) as client:
        client.login("alice", "secret")
        relpath = client.upload_wheel("alice/dev", "local", "1.0", b"local")
        client.upload_wheel("alice/dev", "remote", "1.0", b"remote")
    content = (populated.serverdir / "+files" / relpath).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    old = tmp_path / "old" / "somebody/else/+f" / digest[:3] / digest[3:16] / "any.whl"
    old.parent.mkdir(parents=True)
    old.write_bytes(content)
    said = mine.catchup("--primary-url", populated.url, SEARCH, tmp_path / "old", "--hard-links")
    assert "with 1 files" in said.stdout
    assert "1 from this machine" in said.stdout
    assert (mine.serverdir / "+files" / relpath).samefile(old)
    assert_files(populated.serverdir, mine.serverdir)


def test_a_file_that_cannot_be_asked_for_is_taken_from_here(
    primary: Server, tmp_path: Path, secretfile: Path
) -> None:
    """devpi-server cuts a request at a '#', so that no network can bring such a file."""
    with Client(primary.url) as client:
        client.login()
        client.create_index("root/dev")
        client.upload("root/dev", "hashed", "1.0", ("hashed-1.0#a.zip", build_zip({"a": b"b"})))
    standby = Standby(tmp_path / "new", primary.url, secretfile)
    standby.clone(SEARCH, primary.serverdir)
    assert standby.faults() == {}
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


def test_files_of_a_database_are_found_here_but_not_linked(
    still: Server, tmp_path: Path, secretfile: Path, postgres: Postgres
) -> None:
    spec = postgres.database().spec
    standby = Standby(tmp_path / "new", still.url, secretfile)
    said = standby.clone("--storage", spec, SEARCH, still.serverdir, "--hard-links", code=2)
    assert "--hard-links" in said.message
    assert not standby.serverdir.exists()
    assert "from this machine" in standby.clone("--storage", spec, SEARCH, still.serverdir).stdout


def test_a_search_path_that_is_no_folder_is_refused_before_anything_is_written(
    still: Server, tmp_path: Path, secretfile: Path
) -> None:
    standby = Standby(tmp_path / "new", still.url, secretfile)
    said = standby.clone(SEARCH, tmp_path / "missing", code=2)
    assert "--replica-file-search-path" in said.message
    assert not standby.serverdir.exists()
    configfile = tmp_path / "replisync.toml"
    configfile.write_text(f'[clone]\nreplica-file-search-path = ["{tmp_path}", "{tmp_path}/missing"]\n')
    said = run_here("clone", *standby.new, before=("--configfile", str(configfile)), code=2)
    assert f"{tmp_path}/missing" in said.message
