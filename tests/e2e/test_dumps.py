"""Dumps of all kinds: whatever devpi-import takes is taken as it takes it, whatever it refuses is refused."""

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.content import populate_basics
from tests.support.devpi import Server
from tests.support.dumps import Dump
from tests.support.history import files_below, read_history
from tests.support.oracle import assert_fsck
from tests.support.packages import build_docs, build_wheel, build_zip
from tests.support.pip import pip_install
from tests.support.releases import run_tool
from tests.support.runs import run_here
from tests.support.standby import Standby
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until


def make_odd(dump: Dump) -> Path:
    """Fill a dump with what may be in one: odd names, bases that are gone, all kinds of files."""
    dump.user("ünï.user-1_@x", pwhash="0" * 64, pwsalt="salt", email="ä@example.com")
    dump.index("root/one", bases=["root/one", "root/gone"], title="ä", custom={"k": [1, None]})
    dump.index("root/two", bases=["root/one"])
    odd = dump.index("ünï.user-1_@x/i.n-d_x@1", bases=["root/two", "root/mirror"], pypi_whitelist=["*"])
    dump.index("root/mirror", "mirror", mirror_url="http://127.0.0.1:1/simple/")
    filename, content = build_wheel("thing", "1.0")
    tested = dump.release("root/one", "thing", "1.0", filename, content)
    dump.toxresult("root/one", "thing", "1.0", tested, b'{"testenvs": {}}')
    dump.docs("root/one", "thing", "1.0", build_docs("old"))
    dump.release(odd, "Big.Name_x", "2!1.0+l.1", "Big.Name_x-2!1.0+l.1.zip", build_zip({"a": b"b"}))
    dump.release(odd, "odd", "1.0", "odd-1.0.zip", build_zip({"ä é": b"%20"}))
    dump.mirrored("root/mirror", "plain", "1.0", *build_wheel("plain", "1.0", b"kept"))
    return dump.write()


def without_moments(value: Any) -> Any:
    """Leave out of a value when it was imported, and the hash of a password that is salted anew each time."""
    moments = ("last_modified", "created", "when", "pwhash")
    if isinstance(value, dict):
        return {key: without_moments(inner) for key, inner in value.items() if key not in moments}
    return [without_moments(inner) for inner in value] if isinstance(value, list | tuple) else value


def assert_same_import(theirs: Path, ours: Path) -> None:
    """Check that two imports of the same dump have the same keys, values and files."""
    assert_fsck(ours)
    latest = [read_history(serverdir).latest() for serverdir in (theirs, ours)]
    one, other = (
        {key: (name, without_moments(value)) for key, (name, _, value) in found.items()} for found in latest
    )
    assert one == other
    names = set(files_below(ours / "+files"))
    assert names == set(files_below(theirs / "+files"))
    assert [name for name in names if not filecmp.cmp(theirs / "+files" / name, ours / "+files" / name)] == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_what_is_in_a_dump_is_taken_as_devpi_import_takes_it(tmp_path: Path, version: str) -> None:
    """The oracle is devpi-import itself, on the same dump."""
    dump = make_odd(Dump(tmp_path / "dump", version))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    run_tool("devpi-import", "--serverdir", theirs, "--no-root-pypi", "--no-events", dump)
    options = ("--no-root-pypi", "--no-events", "--at-serial", 300)
    run_here("clone", "--serverdir", ours, "--from-export", dump, *options)
    history = read_history(ours)
    assert history.last_serial == 300
    assert len(history.live_files) == 6
    assert_same_import(theirs, ours)


def test_a_dump_of_an_old_devpi_server_is_taken(primary_before_blocks: Server, tmp_path: Path) -> None:
    """Made by its own means, of all that it knows."""
    populate_basics(primary_before_blocks)
    primary_before_blocks.stop()
    old, dump = primary_before_blocks, tmp_path / "dump"
    run_tool("devpi-server", "--serverdir", old.serverdir, "--export", dump, release=old.release)
    assert json.loads((dump / "dataindex.json").read_bytes())["devpi_server"] == "4.8.1"
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    run_tool("devpi-import", "--serverdir", theirs, "--no-root-pypi", "--no-events", dump)
    run_here("clone", "--serverdir", ours, "--from-export", dump, "--no-root-pypi", "--no-events")
    assert len(read_history(ours).live_files) > 5
    assert_same_import(theirs, ours)


def _unknown_type(dump: Dump) -> None:
    dump.index("root/odd", "constrained")


def _bad_user(dump: Dump) -> None:
    dump.user("a:b")


def _bad_index(dump: Dump) -> None:
    dump.index("root/a:b")


def _no_project(dump: Dump) -> None:
    dump.release("root/dev", "thing", "1.0", "thing-1.0.zip", b"PK")
    del dump.indexes["root/dev"]["projects"]["thing"]


def _circle(dump: Dump) -> None:
    dump.index("root/one", bases=["root/two"])
    dump.index("root/two", bases=["root/one"])


def _circle_beside_others(dump: Dump) -> None:
    dump.index("root/one", bases=["root/two", "root/dev"])
    dump.index("root/two", bases=["root/one"])


def _no_user(dump: Dump) -> None:
    dump.index("nobody/dev")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_unknown_type, "Unknown index type 'constrained'"),
        (_bad_user, "username 'a:b' contains characters"),
        (_bad_index, "indexname 'root/a:b' contains characters"),
        (_no_project, "Some files weren't imported: root/dev/thing/1.0/thing-1.0.zip"),
        (_circle, "couldn't be reached by the dependency tree"),
        (_circle_beside_others, "bases of root/one are in a circle"),
        (_no_user, "AssertionError"),
    ],
)
def test_what_devpi_import_cannot_take_leaves_nothing_behind(
    tmp_path: Path, damage: Callable[[Dump], None], words: str
) -> None:
    """Its own words say why, and a dump that is mended goes into the same target."""
    dump = Dump(tmp_path / "dump")
    dump.index("root/dev")
    damage(dump)
    target = tmp_path / "target"
    clone = ("clone", "--serverdir", target, "--no-root-pypi", "--no-events", "--from-export")
    said = run_here(*clone, dump.write(), code=6)
    assert words in said.message
    assert not (target / ".replisync/seed").exists()
    assert not (target / ".nodeinfo").exists()
    assert not (target / "+files").exists()
    assert read_history(target).changelog == {}
    good = Dump(tmp_path / "good")
    good.index("root/dev")
    run_here(*clone, good.write())
    assert "dev" in read_history(target).latest()["root/.config"][2]["indexes"]


def wait_for_live_files(primary: Server, count: int) -> None:
    """Return when a primary has committed so many files."""
    wait_until(
        lambda: len(read_history(primary.serverdir).live_files) == count, 20, f"{count} files are live"
    )


def test_mirrors_work_after_the_promotion_of_a_seed_by_an_export(
    primary: Server, upstream: Upstream, tmp_path: Path, secretfile: Path
) -> None:
    """Nothing of them was carried, so all is asked for afresh, also what the primary had links to."""
    for project in ("cached", "linked", "later", "never"):
        for number in ("1.0", "2.0"):
            upstream.add_wheel(project, number, number.encode())
    standby = Standby(tmp_path / "standby", primary.url, secretfile)
    with Client(primary.url) as client:
        client.login()
        client.create_mirror("root/mirror", upstream.simple_url)
        client.create_index("root/dev", bases=["root/mirror"], mirror_whitelist=["*"])
        for relpath in client.links("root/mirror", "cached").values():
            client.fetch(relpath)
        client.simple("root/mirror", "linked")
        wait_for_live_files(primary, 2)
        standby.clone("--from-serverdir", primary.serverdir, "--seed", "export")
        for relpath in client.links("root/mirror", "later").values():
            client.fetch(relpath)
        client.simple("root/dev", "linked")
    wait_for_live_files(primary, 4)
    standby.catchup()
    assert [key for key in read_history(standby.serverdir).kv if key.startswith("root/mirror/")] == []
    primary.stop()
    standby.promote()
    upstream.requests.clear()
    with Server(standby.serverdir, secretfile=secretfile) as promoted:
        for index, project in (
            ("mirror", "cached"),
            ("mirror", "linked"),
            ("dev", "later"),
            ("dev", "never"),
        ):
            into = tmp_path / project
            pip_install(f"{promoted.url}/root/{index}/+simple/", f"{project}==1.0", into, "--no-deps")
            assert (into / f"{project}-1.0.dist-info").is_dir()
            assert upstream.count(f"/files/{project}/") == 1
