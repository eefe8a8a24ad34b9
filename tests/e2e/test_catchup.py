"""Bringing a standby up to date once: every kind of change, up to a serial, from wherever the primary is."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import Client, file_relpath, toxresult
from tests.support.content import ODD_NAMES, build_docs, build_wheel, build_zip
from tests.support.devpi import Server
from tests.support.history import connect
from tests.support.oracle import assert_equal_history, assert_files, assert_replicated
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby, settled
from tests.support.upstream import HashType, Upstream


@dataclass
class Pair:
    """A primary that changes, its upstream, and a standby that was cloned before the changes."""

    primary: Server
    upstream: Upstream
    standby: Standby
    client: Client


def fill(client: Client, upstream: Upstream) -> None:
    """Make what the changes below change."""
    hash_types: dict[str, HashType] = {"plain": "sha256", "md5": "md5", "nohash": ""}
    for project, hash_type in hash_types.items():
        for version in ("1.0", "2.0", "3.0"):
            upstream.add_wheel(project, version, version.encode(), hash_type)
    client.login()
    client.create_mirror("root/mirror", upstream.simple_url, mirror_cache_expiry=0)
    client.create_mirror("root/external", upstream.simple_url, mirror_use_external_urls=True)
    client.create_index("root/dev", volatile=True)
    client.create_index("root/prod", bases=["root/dev"])
    for project in ("replaced", "shrinking", "vanishing", "tested", "documented"):
        for version in ("1.0", "2.0"):
            client.upload_wheel("root/dev", project, version, version.encode())
    client.upload_docs("root/dev", "documented", "1.0")
    for user in ("leaving", "staying"):
        client.create_user(user)
        client.login(user, "secret")
        client.create_index(f"{user}/dev", volatile=True)
        client.upload_wheel(f"{user}/dev", "theirs", "1.0")
    client.login()
    cache(client, "plain", "1.0")
    cache(client, "nohash", "1.0")


def cache(client: Client, project: str, version: str) -> str:
    """Ask the mirror for a file, so that the primary keeps it; return the relpath."""
    relpath = client.links("root/mirror", project)[build_wheel(project, version)[0]]
    client.fetch(relpath)
    return relpath


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Pair]:
    """A primary to be changed, and a standby to be brought after it."""
    folder = tmp_path_factory.mktemp("catchup")
    with (
        Upstream() as upstream,
        Server(folder / "primary", secretfile=secretfile).init() as primary,
        Client(primary.url) as client,
    ):
        fill(client, upstream)
        settled(primary)
        standby = Standby(folder / "standby", primary.url, secretfile)
        standby.clone()
        yield Pair(primary, upstream, standby, client)


# Every kind of change


def uploads(pair: Pair) -> None:
    pair.client.upload_wheel("root/dev", "fresh", "1.0")
    pair.client.upload_sdist("root/dev", "fresh", "1.0")
    pair.client.upload("root/dev", "odd", "1.0", (ODD_NAMES[-1], build_zip({"late": b"odd"})))


def metadata_alone(pair: Pair) -> None:
    pair.client.register("root/dev", "registered", "1.0", summary="no file", description="ä " * 2_000)
    pair.client.modify_index("root/dev", title="another title")


def other_content(pair: Pair) -> None:
    pair.client.upload_wheel("root/dev", "replaced", "1.0", b"other content")
    pair.client.upload_wheel("root/dev", "replaced", "2.0", b"2.0")


def another_doc_zip(pair: Pair) -> None:
    pair.client.upload_docs("root/dev", "documented", "1.0", build_docs("replaced"))
    pair.client.upload_docs("root/dev", "documented", "2.0")


def tox_results(pair: Pair) -> None:
    relpath = file_relpath("root/dev", *build_wheel("tested", "1.0", b"1.0"))
    for outcome in ("congratulations", "failed"):
        pair.client.upload_toxresult(relpath, toxresult(outcome))


def pushes(pair: Pair) -> None:
    pair.client.push("root/dev", "documented", "1.0", "root/prod")
    pair.client.push("root/dev", "tested", "1.0", "root/prod")


def deleted_file_and_version(pair: Pair) -> None:
    pair.client.delete_file(file_relpath("root/dev", *build_wheel("shrinking", "1.0", b"1.0")))
    pair.client.delete_version("root/dev", "shrinking", "2.0")


def deleted_project(pair: Pair) -> None:
    pair.client.delete_project("root/dev", "vanishing")


def deleted_project_that_returns(pair: Pair) -> None:
    pair.client.upload_wheel("root/dev", "vanishing", "1.0", b"1.0")
    pair.client.upload_wheel("root/dev", "vanishing", "2.0", b"another 2.0")


def deleted_index_and_user(pair: Pair) -> None:
    pair.client.login("staying", "secret")
    pair.client.delete_index("staying/dev")
    pair.client.login()
    pair.client.delete_user("leaving")


def index_and_user_that_return(pair: Pair) -> None:
    pair.client.create_user("leaving")
    for user in ("leaving", "staying"):
        pair.client.login(user, "secret")
        pair.client.create_index(f"{user}/dev", volatile=True)
        pair.client.upload_wheel(f"{user}/dev", "theirs", "1.0")
    pair.client.login()


def came_and_went(pair: Pair) -> None:
    pair.client.create_index("root/brief", volatile=True)
    pair.client.upload_wheel("root/brief", "brief", "1.0")
    pair.client.delete_index("root/brief")
    relpath = pair.client.upload_wheel("root/dev", "same", "1.0")
    pair.client.delete_file(relpath)
    pair.client.upload_wheel("root/dev", "same", "1.0")


def mirrored_files(pair: Pair) -> None:
    for project in ("plain", "md5", "nohash"):
        cache(pair.client, project, "2.0")


def mirror_that_changes_upstream(pair: Pair) -> None:
    pair.upstream.add_wheel("plain", "4.0", b"4.0")
    pair.client.refresh("root/mirror", "plain")
    cache(pair.client, "plain", "4.0")
    # The same relpath with other bytes: its link has no hash that could change the path.
    pair.upstream.add_wheel("nohash", "1.0", b"other bytes", "")
    relpath = pair.client.links("root/mirror", "nohash")[build_wheel("nohash", "1.0")[0]]
    pair.client.delete_file(relpath, force=True)
    pair.client.refresh("root/mirror", "nohash")
    cache(pair.client, "nohash", "1.0")


def mirror_deletions(pair: Pair) -> None:
    cache(pair.client, "md5", "3.0")
    pair.client.delete_version("root/mirror", "md5", "3.0", force=True)
    pair.client.delete_project("root/mirror", "plain", force=True)


def mirror_with_external_urls(pair: Pair) -> None:
    url = pair.client.links("root/external", "plain")[build_wheel("plain", "3.0")[0]]
    pair.client.fetch(url, expect=302)
    pair.client.modify_index("root/mirror", "mirror_use_external_urls=True")
    pair.client.modify_index("root/mirror", "mirror_use_external_urls=False")


def mirror_that_vanishes(pair: Pair) -> None:
    pair.client.create_mirror("root/second", pair.upstream.simple_url, volatile=True)
    for relpath in pair.client.links("root/second", "plain").values():
        pair.client.fetch(relpath)
    pair.client.delete_index("root/second")


CHANGES: tuple[Callable[[Pair], None], ...] = (
    uploads,
    metadata_alone,
    other_content,
    another_doc_zip,
    tox_results,
    pushes,
    deleted_file_and_version,
    deleted_project,
    deleted_project_that_returns,
    deleted_index_and_user,
    index_and_user_that_return,
    came_and_went,
    mirrored_files,
    mirror_that_changes_upstream,
    mirror_deletions,
    mirror_with_external_urls,
    mirror_that_vanishes,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_each_kind_arrives(pair: Pair, change: Callable[[Pair], None]) -> None:
    """After the change and a catchup, history, keys and files are the primary's again."""
    before = pair.primary.serial()
    change(pair)
    serial = settled(pair.primary)
    assert serial > before
    said = pair.standby.catchup()
    assert f"to {serial}," in said.stdout
    assert_equal_history(pair.primary.serverdir, pair.standby.serverdir, serial)
    assert_files(pair.primary.serverdir, pair.standby.serverdir)
    assert pair.standby.faults() == {}


def test_changes_of_all_kinds_leave_an_exact_standby(pair: Pair) -> None:
    """After everything above the standby passes devpi-fsck, and its export equals the primary's."""
    settled(pair.primary)
    pair.standby.catchup()
    assert_replicated(pair.primary, pair.standby.serverdir)


# How far


def test_nothing_new_costs_four_requests_at_most(pair: Pair, tmp_path: Path) -> None:
    """A catchup that finds nothing says so, having compared the last few entries and nothing more."""
    pair.standby.catchup()
    standby = pair.standby.copy(tmp_path / "standby")
    with Proxy(pair.primary.url) as proxy:
        standby.catchup("--primary-url", proxy.url)
        before = snapshot(standby.serverdir)
        proxy.requests.clear()
        said = standby.catchup()
    assert f"at serial {standby.serial} already" in said.stdout
    assert len(proxy.requests) <= 4
    assert_untouched(standby.serverdir, before)


def test_to_serial_stops_exactly_there(pair: Pair) -> None:
    """Each serial on the way is a whole standby; one behind us, or that nobody has, is refused."""
    standby = pair.standby
    standby.catchup()
    first = standby.serial
    relpath = pair.client.upload_wheel("root/dev", "stepwise", "1.0", b"first")
    pair.client.upload_wheel("root/dev", "stepwise", "1.0", b"second")
    pair.client.upload_docs("root/dev", "stepwise", "1.0")
    pair.client.delete_project("root/dev", "stepwise")
    last = settled(pair.primary)
    for serial in range(first + 1, last + 1):
        standby.catchup("--to-serial", serial)
        assert standby.serial == serial
        assert_equal_history(pair.primary.serverdir, standby.serverdir, serial)
        assert_files(pair.primary.serverdir, standby.serverdir)
    assert not (standby.serverdir / "+files" / relpath).exists()
    standby.catchup("--to-serial", last)
    before = snapshot(standby.serverdir)
    assert "already" in standby.catchup("--to-serial", first, code=9).message
    assert f"the primary is at serial {last}" in standby.catchup("--to-serial", last + 1, code=9).message
    assert_untouched(standby.serverdir, before)


def test_a_file_that_was_deleted_before_we_came_for_it_stops_nothing(pair: Pair) -> None:
    """The primary answers 410 for what a later serial deletes: the earlier serial goes on without it."""
    standby = pair.standby
    pair.client.create_index("root/late", volatile=True)
    pair.client.upload_wheel("root/late", "late", "1.0")
    in_index = pair.primary.serial()
    relpath = pair.client.upload_wheel("root/dev", "late", "1.0")
    mirrored = cache(pair.client, "nohash", "3.0")
    with_files = settled(pair.primary)
    pair.client.delete_file(relpath)
    pair.client.delete_file(mirrored, force=True)
    pair.client.delete_index("root/late")
    settled(pair.primary)
    for serial in (in_index, with_files):
        standby.catchup("--to-serial", serial)
        assert standby.serial == serial
    assert not (standby.serverdir / "+files" / relpath).exists()
    standby.catchup()
    assert standby.faults() == {}
    assert_files(pair.primary.serverdir, standby.serverdir)
    assert_equal_history(pair.primary.serverdir, standby.serverdir)


def test_timeout_ends_a_catchup_that_does_not_get_on(pair: Pair, tmp_path: Path) -> None:
    """The run ends with 9 when its time is over, its standby is whole, and the next run goes on."""
    pair.standby.catchup()
    standby = pair.standby.copy(tmp_path / "standby")
    pair.client.upload("root/dev", "slow", "1.0", ("slow-1.0.zip", build_zip({"zeros": bytes(30_000)})))
    before = snapshot(standby.serverdir)
    # The file would take a minute.
    with Proxy(pair.primary.url) as proxy, proxy.fault(path=r"/root/dev/%2Bf", bytes_per_second=500):
        said = standby.catchup("--primary-url", proxy.url, "--timeout", 2, code=9)
        assert proxy.count("/root/dev/%2Bf") == 1
        assert proxy.bytes_sent < 30_000, "it waited for the whole file"
    assert "timeout" in said.message
    before[".nodeinfo"] = snapshot(standby.serverdir)[".nodeinfo"]  # the URL is remembered
    assert_untouched(standby.serverdir, before)
    standby.catchup("--primary-url", pair.primary.url)
    assert standby.serial == pair.primary.serial()
    assert_files(pair.primary.serverdir, standby.serverdir)


# Where the primary is


def test_a_primary_that_moved_is_followed_if_it_is_the_same(pair: Pair, tmp_path: Path) -> None:
    """Its new URL is remembered once the server there has shown the same UUID; another server is refused."""
    standby = pair.standby
    standby.catchup()
    with Server(tmp_path / "stranger", secretfile=standby.secretfile).init() as stranger:
        before = snapshot(standby.serverdir)
        said = standby.catchup("--primary-url", stranger.url, code=5)
        assert "another server" in said.message
        assert_untouched(standby.serverdir, before)
    assert standby.status()["primary_url"].rstrip("/") == pair.primary.url
    pair.primary.stop()
    pair.primary.port = free_port()
    pair.primary.start()
    pair.client = Client(pair.primary.url).login()
    pair.client.upload_wheel("root/dev", "moved", "1.0")
    standby.catchup("--patience", 0.1, code=3)
    standby.catchup("--primary-url", pair.primary.url)
    assert standby.serial == pair.primary.serial()
    pair.client.upload_wheel("root/dev", "moved", "2.0")
    standby.catchup()
    assert_replicated(pair.primary, standby.serverdir, export=False, fsck=False)
    assert standby.status()["primary_url"].rstrip("/") == pair.primary.url


# What is dropped


def test_what_a_change_drops_is_kept_aside(pair: Pair, tmp_path: Path) -> None:
    """Deleted and replaced files wait in the retained folder; with --retention 0 they are gone."""
    standby = pair.standby
    contents = {}
    for name in ("deleted", "replaced"):
        relpath = pair.client.upload_wheel("root/dev", f"aside-{name}", "1.0", b"before")
        contents[name] = (relpath, build_wheel(f"aside-{name}", "1.0", b"before")[1])
    standby.catchup()
    spare = standby.copy(tmp_path / "spare")
    pair.client.delete_file(contents["deleted"][0])
    pair.client.upload_wheel("root/dev", "aside-replaced", "1.0", b"after")
    standby.catchup()
    spare.catchup("--retention", 0)
    for each in (standby, spare):
        assert_files(pair.primary.serverdir, each.serverdir)
    for relpath, content in contents.values():
        assert content in retained(standby, relpath)
        assert retained(spare, relpath) == []


def test_what_is_over_age_goes_at_once_where_the_command_line_says_for_how_long(
    pair: Pair, tmp_path: Path
) -> None:
    """Otherwise, also by a file of settings, it is marked, and goes a day later: the clock may be wrong."""
    standby = pair.standby
    relpath = pair.client.upload_wheel("root/dev", "aged", "1.0")
    standby.catchup()
    pair.client.delete_file(relpath)
    standby.catchup()
    with closing(sqlite3.connect(standby.serverdir / ".sqlite")) as database, database:
        old = "UPDATE replisync_retained SET retained_at = '2020-02-02T02:02:02.222Z' WHERE relpath = ?"
        database.execute(old, (relpath,))
    configuration = tmp_path / "replisync.toml"
    configuration.write_text("[catchup]\nretention = 7\n")
    standby.catchup()
    run_here("catchup", *standby.with_secret, before=("-c", str(configuration)))
    assert len(retained(standby, relpath)) == 1
    standby.catchup("--retention", 7)
    assert retained(standby, relpath) == []


def retained(standby: Standby, relpath: str) -> list[bytes]:
    """Return the contents that are kept aside for a relpath."""
    query = "SELECT stored_as FROM replisync_retained WHERE relpath = ?"
    with closing(connect(standby.serverdir)) as database:
        names = [name for (name,) in database.execute(query, (relpath,))]
    return [(standby.serverdir / ".replisync" / "retained" / name).read_bytes() for name in names]
