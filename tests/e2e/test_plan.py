"""`clone --plan` says what would be fetched, which is what a clone then does, and writes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.devpi import Server, copy_serverdir
from tests.support.history import files_below, read_history
from tests.support.oracle import export
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.standby import Standby, changed, tree

FROM = "--from-serverdir"


@pytest.fixture
def new(tmp_path: Path, proxy: Proxy, secretfile: Path) -> Standby:
    """A standby that is still to be made, by way of the proxy."""
    return Standby(tmp_path / "new", proxy.url, secretfile)


def plan(*options: object) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run_here("clone", *options, "--plan", "--json").stdout)
    return said


def sizes(serverdir: Path) -> dict[str, int]:
    """Return the sizes of the live files that a server has, and can be asked for."""
    live = read_history(serverdir).live_files
    files = {path: serverdir / "+files" / path for path in live}
    return {path: file.stat().st_size for path, file in files.items() if file.is_file()}


def test_a_plan_over_the_changelog_is_what_the_clone_does(still: Server, new: Standby) -> None:
    """Sizes are asked for by HEAD, which writes nothing on the primary; there is not even a folder here."""
    before = tree(still.serverdir)
    found = plan(*new.new)
    live = read_history(still.serverdir).live_files
    there = sizes(still.serverdir)
    assert not new.serverdir.exists()
    assert changed(before, still.serverdir) == []
    assert (found["source"], found["role"]) == ("changelog", "replica")
    assert (found["from_serial"], found["to_serial"], found["serials"]) == (
        0,
        still.serial(),
        still.serial() + 1,
    )
    assert (found["files"], found["local"], found["here"], found["missing"]) == (len(live), 0, 0, 0)
    # What a mirror deleted, it can ask its upstream about.
    assert found["bytes"] >= sum(there.values())
    assert found["unknown_sizes"] <= len(live) - len(there)
    assert found["history_bytes"] > 10_000
    text = run_here("clone", *new.new, "--plan").stdout
    assert f"{still.serial() + 1}, 0 to {still.serial()}" in text
    assert "nothing was written" in text
    new.clone()
    assert new.status()["files_total"] == found["files"]


def test_what_is_on_this_machine_is_not_asked_for(
    still: Server, new: Standby, proxy: Proxy, tmp_path: Path
) -> None:
    """By the folders that have it."""
    there = sizes(still.serverdir)
    some = {
        path: size for path, size in there.items() if path.startswith("alice/dev/+f/") and "tox" not in path
    }
    old = tmp_path / "old"
    for path in some:
        (old / "+files" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(still.serverdir / "+files" / path, old / "+files" / path)
    found = plan(*new.new, "--replica-file-search-path", old)
    asked = {unquote(path)[1:] for path in proxy.paths()}
    assert [path for path in some if path in asked] == []
    # Files that were pushed to another index have the same content.
    assert found["local"] >= len(some)
    assert found["local_bytes"] >= sum(some.values())
    assert found["folders"] == {str(old): found["local"]}
    assert not new.serverdir.exists()
    new.clone("--replica-file-search-path", old)
    assert new.status()["last_run"]["local"] == found["local"]


def test_a_plan_for_a_clone_that_was_interrupted_tells_what_is_left(still: Server, new: Standby) -> None:
    whole = plan(*new.new)
    new.clone("--file-replication-skip-indexes", "all")
    (new.serverdir / ".nodeinfo").unlink()
    before = tree(new.serverdir)
    found = plan(*new.new)
    assert [name for name in changed(before, new.serverdir) if not name.startswith(".sqlite-")] == []
    assert found["serials"] == 0
    assert (found["files"], found["bytes"]) == (whole["files"], whole["bytes"])
    new.clone("--file-replication-skip-indexes", "mirror")
    (new.serverdir / ".nodeinfo").unlink()
    mirrored = [path for path in read_history(still.serverdir).live_files if path.startswith("root/mirror")]
    assert plan(*new.new)["files"] == len(mirrored)


@pytest.mark.parametrize("followed", [True, False])
def test_a_plan_for_a_base_copy(still: Server, new: Standby, tmp_path: Path, followed: bool) -> None:
    """Nearly everything is here; without a primary it tells what is nowhere."""
    root = copy_serverdir(still.serverdir, tmp_path / "root")
    there = sizes(root)
    gone = next(path for path in sorted(there) if path.startswith("alice/"))
    (root / "+files" / gone).unlink()
    before = tree(root)
    found = plan(*(new.new if followed else new.own), FROM, root)
    assert changed(before, root) == []
    assert not new.serverdir.exists()
    assert found["source"] == "base-copy"
    assert found["role"] == ("replica" if followed else "standalone")
    assert found["local_serials"] == found["serials"] == still.serial() + 1
    assert found["history_bytes"] == 0
    assert (found["local"], found["local_bytes"]) == (len(there) - 1, sum(there.values()) - there[gone])
    assert bool(found["missing"]) is not followed


def test_a_plan_for_an_export_and_for_a_dump(still: Server, new: Standby, tmp_path: Path) -> None:
    """Private files alone, and the changes since."""
    private = {
        path: size for path, size in sizes(still.serverdir).items() if not path.startswith("root/mirror/")
    }
    found = plan(*new.new, FROM, still.serverdir, "--seed", "export")
    assert (found["source"], found["local"], found["local_bytes"]) == (
        "export",
        len(private),
        sum(private.values()),
    )
    assert found["local_serials"] == found["serials"] == still.serial() + 1
    dump = export(still.serverdir, tmp_path / "dump", mirrored=False)
    dumped = [path for path in files_below(dump) if path != "dataindex.json"]
    found = plan(*new.new, "--from-export", dump, "--at-serial", still.serial())
    assert (found["source"], found["files"], found["local"]) == ("export", len(dumped), len(dumped))
    assert found["bytes"] == sum((dump / path).stat().st_size for path in dumped)
    assert found["folders"] == {str(dump): len(dumped)}
    assert (found["serials"], found["history_bytes"]) == (still.serial() + 1, 0)
    earlier = plan(*new.new, "--from-export", dump, "--at-serial", 2)
    assert earlier["local_serials"] == 3
    assert earlier["history_bytes"] > 10_000
    alone = plan(*new.own, "--from-export", dump)
    assert (alone["serials"], alone["role"], alone["files"]) == (None, "standalone", len(dumped))
    assert not new.serverdir.exists()


def test_a_plan_for_a_reseed_counts_what_the_present_standby_has(still: Server, standby: Standby) -> None:
    before = tree(standby.serverdir)
    found = plan(*standby.with_secret, "--reseed")
    assert [name for name in changed(before, standby.serverdir) if not name.startswith(".sqlite-")] == []
    assert not standby.serverdir.with_name(f"{standby.serverdir.name}.reseed").exists()
    assert found["serials"] == still.serial() + 1
    assert list(found["folders"]) == [str(standby.serverdir / "+files")]
    there = sizes(standby.serverdir)
    # Of some files in mirrors nobody knows a digest.
    assert 20 < found["local"] <= len(there)


def test_a_clone_and_its_errors_are_json_too(still: Server, new: Standby) -> None:
    said = json.loads(new.clone("--json").stdout)
    assert (said["role"], said["serial"], said["serverdir"]) == (
        "replica",
        still.serial(),
        str(new.serverdir),
    )
    assert said["files_total"] - said["files_missing"] == len(list(files_below(new.serverdir / "+files")))
    for more in ((), ("--plan",)):
        error = json.loads(new.clone("--json", *more, code=6).stdout)
        assert (error["code"], "finished standby" in error["error"]) == (6, True)
