"""`status` tells where a standby stands, without a secret and without a write; monitors can rely on it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from replisync import __version__
from replisync.monitoring.status import status
from replisync.session.settings import ASK_SECONDS
from replisync.standby.serverdir import Serverdir
from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.history import connect, read_history
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Background, run_here
from tests.support.standby import Standby, changed, tree

FIELDS = {
    *("state", "serverdir", "storage", "primary_url", "primary_uuid", "uuid", "serial", "primary_serial"),
    *("lag_serials", "lag_seconds", "last_contact", "files_total", "files_missing", "faults"),
    *("seed", "last_run", "last_verify", "version", "reason", "next"),
}
SEED_FIELDS = {"kind", "serial", "started", "finished"}
RUN_FIELDS = {"command", "outcome", "from_serial", "to_serial", "files", "bytes", "seconds", "finished"}


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Server]:
    """A primary that tests change, but do not stop."""
    with Server(tmp_path_factory.mktemp("status") / "primary", secretfile=secretfile).init() as server:
        with Client(server.url).login() as client:
            client.create_index("root/dev", volatile=True)
            client.upload_wheel("root/dev", "first", "1.0")
        yield server


@pytest.fixture
def way(primary: Server) -> Iterator[Proxy]:
    """The way to the primary, which tests may block."""
    with Proxy(primary.url) as proxy:
        yield proxy


@pytest.fixture
def own(tmp_path: Path, way: Proxy, secretfile: Path) -> Standby:
    """A standby of it that is up to date."""
    standby = Standby(tmp_path / "standby", way.url, secretfile)
    standby.clone()
    return standby


def upload(primary: Server, *versions: str) -> None:
    with Client(primary.url).login() as client:
        for version in versions:
            client.upload_wheel("root/dev", "later", version)


def moment(text: str) -> datetime:
    """Parse a time, which must be in UTC, and of today."""
    found = datetime.fromisoformat(text)
    assert found.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - found) < timedelta(minutes=10)
    return found


def test_all_fields_have_their_values(still: Server, standby: Standby) -> None:
    """The fields of the contract are there, with what is true of a standby that is up to date."""
    found = standby.status()
    live = read_history(standby.serverdir).live_files
    assert FIELDS - set(found) == set()
    expected: dict[str, Any] = {
        "state": "current",
        "reason": None,
        "next": None,
        "serverdir": str(standby.serverdir),
        "storage": "sqlite",
        "primary_uuid": still.uuid(),
        "uuid": json.loads((standby.serverdir / ".nodeinfo").read_bytes())["uuid"],
        "serial": still.serial(),
        "primary_serial": still.serial(),
        "lag_serials": 0,
        "lag_seconds": 0.0,
        "files_total": len(live),
        "faults": 0,
        "last_verify": None,
        "version": __version__,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["primary_url"].rstrip("/") == still.url
    moment(found["last_contact"])
    on_disk = sum((standby.serverdir / "+files" / relpath).is_file() for relpath in live)
    assert found["files_missing"] == len(live) - on_disk


def test_the_seed_and_the_last_run_are_told(still: Server, standby: Standby) -> None:
    """When and how the standby was made, and what the last run did."""
    found = standby.status()
    seed, run = found["seed"], found["last_run"]
    assert set(seed) >= SEED_FIELDS
    assert (seed["kind"], seed["serial"]) == ("changelog", still.serial())
    assert moment(seed["started"]) <= moment(seed["finished"])
    assert set(run) >= RUN_FIELDS
    assert (run["command"], run["outcome"]) == ("clone", "ok")
    assert (run["from_serial"], run["to_serial"]) == (-1, still.serial())
    files = [path for path in (standby.serverdir / "+files").rglob("*") if path.is_file()]
    assert run["files"] == len(files)
    assert run["bytes"] == sum(path.stat().st_size for path in files)
    assert 0 < run["seconds"] < 600
    moment(run["finished"])


def test_it_needs_no_secret_and_writes_nothing(standby: Standby) -> None:
    """Any user who may read the folder may ask, as often as they like."""
    before = tree(standby.serverdir)
    for options in ((), ("--offline",), ("--max-lag-serials", 0)):
        standby.status(*options)
        run_here("status", *standby.own, *options)
    # SQLite makes these two for whoever reads a database in WAL mode.
    assert set(changed(before, standby.serverdir)) <= {".sqlite-shm", ".sqlite-wal"}


# States


def test_behind(primary: Server, own: Standby) -> None:
    """How far, in serials and in seconds; monitors get exit 9 beyond what they allow."""
    own.status("--max-lag-serials", 0, "--max-lag-seconds", 0)
    upload(primary, "1.0", "1.1")
    found = own.status()
    assert (found["state"], found["lag_serials"]) == ("behind", found["primary_serial"] - found["serial"])
    assert found["primary_serial"] == primary.serial()
    lag = found["lag_serials"]
    assert found["lag_seconds"] >= 0
    own.status("--max-lag-serials", lag, "--max-lag-seconds", 3600)
    for option, bound in (("--max-lag-serials", lag - 1), ("--max-lag-seconds", 0)):
        said = own.status(option, bound, code=9)
        assert said["code"] == 9
        assert f"behind, and {option} allows {bound};" in said["error"]
        assert "catchup" in said["hint"]
        assert said["serial"] == own.serial, "the fields are there too"
        text = run_here("status", *own.own, option, bound, code=9)
        assert re.match(
            rf"{own.serverdir}: behind \(last in sync \d+ s ago\) - the primary is at", text.stdout
        )
        assert f"  next        replisync catchup --serverdir {own.serverdir}\n" in text.stdout
    own.catchup()
    assert own.status("--max-lag-serials", 0)["state"] == "current"


def test_retained_files_are_counted(primary: Server, own: Standby) -> None:
    """They may be what fills a disk."""
    assert own.status()["retained"] == {"files": 0, "bytes": 0}
    with Client(primary.url).login() as client:
        relpath = client.upload_wheel("root/dev", "retained", "1.0")
        own.catchup()
        size = (own.serverdir / "+files" / relpath).stat().st_size
        client.delete_project("root/dev", "retained")
    own.catchup()
    assert own.status()["retained"] == {"files": 1, "bytes": size}
    assert "  retained    1 files that the primary deleted" in run_here("status", *own.own).stdout


def test_stale(primary: Server, own: Standby, way: Proxy) -> None:
    """A primary that does not answer, or was not heard of for long, leaves nobody sure of anything."""
    way.refuse()
    found = own.status()
    assert (found["state"], found["primary_serial"]) == ("stale", primary.serial())
    assert found["reason"] == "the primary cannot be asked: [Errno 111] Connection refused"
    heard = found["last_contact"]
    assert 0 <= found["lag_seconds"] < 300, "since it was last in sync, at most"
    own.status("--max-lag-serials", 0, "--max-lag-seconds", 300)
    assert own.status("--offline")["state"] == "current"
    text = run_here("status", *own.own).stdout
    assert re.match(rf"{own.serverdir}: stale \(last heard \d+ s ago\) - the primary cannot be asked: ", text)
    assert (
        f"  serial      {own.serial}, primary {own.serial} when last heard, behind by 0 serials or more\n"
        in text
    )
    long_ago = (moment(heard) - timedelta(hours=1)).isoformat()
    with closing(connect(own.serverdir, write=True)) as database, database:
        database.execute(
            "UPDATE replisync_contact SET contacted_at = ?, in_sync_at = ?", (long_ago, long_ago)
        )
    assert own.status("--offline")["state"] == "stale"
    said = own.status("--max-lag-seconds", 300, code=9)
    assert "the standby is stale: the primary cannot be asked: [Errno 111]" in said["error"]
    assert said["lag_seconds"] >= 3600
    assert own.status("--max-lag-serials", 0, code=9)["code"] == 9


def test_the_trouble_of_a_follower_is_shown_while_it_lasts(primary: Server, own: Standby, way: Proxy) -> None:
    """The reason, which otherwise is in its log only."""
    with own.follow() as follower:
        way.refuse()
        way.drop_connections()
        follower.wait_for_log("retrying")
        follower.wait_for(lambda: own.status("--offline")["error"], "the trouble is recorded")
        found = own.status("--offline")
        assert found["reason"].startswith("`follow` is retrying: cannot ")
        assert (found["last_run"]["outcome"], found["state"]) == ("running", "current")
        way.accept()
        upload(primary, "2.0")
        follower.wait_for(lambda: own.status()["error"] is None, "it passed")
        follower.wait_for(lambda: own.status("--offline")["last_run"]["files"] == 1, "its files are counted")
        assert own.status()["reason"] is None
        follower.stop()


def test_a_run_that_a_wrong_url_ended_is_recorded(own: Standby, still: Server) -> None:
    """A look at the last run shows how it ended, whatever ended it."""
    own.catchup("--primary-url", still.url, code=5)
    found = own.status("--offline")
    assert (found["last_run"]["command"], found["last_run"]["outcome"]) == ("catchup", "diverged")
    assert "another server" in found["error"]


def test_a_primary_that_is_silent_is_not_waited_for_long(primary: Server, own: Standby) -> None:
    """Monitoring gets its answer, whatever state the primary is in."""
    assert ASK_SECONDS <= 10
    primary.pause()
    try:
        found = status(Serverdir(own.serverdir), silence=0.3)
    finally:
        primary.resume()
    assert found["state"] == "stale"


def test_a_catchup_that_finds_nothing_counts_as_contact(own: Standby) -> None:
    """A timer that runs `catchup` keeps a standby from being called stale."""
    with closing(connect(own.serverdir, write=True)) as database, database:
        database.execute("UPDATE replisync_contact SET contacted_at = '2001-02-03T04:05:06Z'")
    assert own.status("--offline")["state"] == "stale"
    own.catchup()
    found = own.status("--offline")
    assert found["state"] == "current"
    moment(found["last_contact"])


def test_offline_asks_nobody(own: Standby, way: Proxy) -> None:
    """With --offline no request is made, and what was last heard is told."""
    way.requests.clear()
    found = own.status("--offline")
    assert way.requests == []
    assert (found["state"], found["primary_serial"]) == ("current", own.serial)
    own.status()
    assert len(way.requests) == 1


def test_diverged(own: Standby, way: Proxy, still: Server) -> None:
    """Another server behind the URL is not asked how far it is: the state says it all."""
    way.target_url = still.url
    way.drop_connections()
    found = own.status()
    assert found["state"] == "diverged"
    assert "another server" in found["reason"]
    assert found["primary_serial"] != still.serial()
    own.catchup(code=5)
    run = own.status("--offline")
    assert (run["state"], run["last_run"]["outcome"]) == ("diverged", "diverged")
    assert "another server" in run["error"]
    own.status("--max-lag-serials", 10_000, code=9)


def test_promoted(own: Standby) -> None:
    """A promoted standby has no lag, and monitors that allow none say so."""
    own.promote()
    found = own.status()
    assert (found["state"], found["lag_serials"], found["lag_seconds"]) == ("promoted", None, None)
    moment(found["since"])
    assert f"{own.serverdir}: promoted (since 0 s ago)\n" in run_here("status", *own.own).stdout
    own.status("--max-lag-serials", 10_000, code=9)


def test_cloning(tmp_path: Path, way: Proxy, secretfile: Path) -> None:
    """While a clone runs, and after it was interrupted, the state says that this is no standby yet."""
    new = Standby(tmp_path / "new", way.url, secretfile)
    stalled = way.add(Fault(path="/root/dev/%2Bf", stall_after=10))
    with Background(tmp_path / "clone.log", "clone", *new.new) as clone:
        clone.wait_for(lambda: stalled.done, "a file is on its way")
        found = new.status()
        assert (found["state"], found["running"]) == ("cloning", True)
        assert found["files_missing"] > 0
        some = len([path for path in (new.serverdir / "+files").rglob("*") if path.is_file()])
        assert found["files_total"] - found["files_missing"] == some, "also those that no commit counts yet"
        assert found["seed"]["finished"] is None
        assert found["last_run"]["outcome"] == "running"
    found = new.status()
    assert (found["state"], found["running"]) == ("cloning", False)
    assert found["last_run"]["outcome"] == "killed"
    new.status("--max-lag-serials", 10_000, code=9)
    way.clear()
    new.clone()
    assert new.status()["state"] == "current"


def test_it_works_while_follow_runs(own: Standby) -> None:
    """The follower is neither disturbed nor waited for."""
    with own.follow() as follower:
        found = own.status()
        assert (found["state"], found["running"]) == ("current", True)
        assert (found["last_run"]["command"], found["last_run"]["outcome"]) == ("follow", "running")
        follower.stop()
    assert own.status()["running"] is False


# Errors


@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "a devpi-server"])
def test_what_is_no_standby(tmp_path: Path, still: Server, kind: str) -> None:
    """Exit 6, an object with error, code and hint on stdout, one line on stderr, and nothing is made."""
    serverdir = still.serverdir if kind == "a devpi-server" else tmp_path / "folder"
    if kind == "an empty folder":
        serverdir.mkdir()
    for command in ("status", "promote"):
        said = run_here(command, "--serverdir", serverdir, "--json", code=6)
        assert json.loads(said.stdout) == {
            "error": said.message.removeprefix("replisync: "),
            "code": 6,
            "hint": "create one with `clone`",
        }
        text = run_here(command, "--serverdir", serverdir, code=6)
        assert (text.stdout, text.message) == ("", said.message)
    assert not (serverdir / ".replisync").exists()
    assert os.listdir(tmp_path) == (["folder"] if kind == "an empty folder" else [])


def test_a_wrong_option_with_json(standby: Standby) -> None:
    """What is wrong with the command line is said as an object too."""
    said = json.loads(run_here("status", *standby.own, "--json", "--max-lag-serials", "x", code=2).stdout)
    assert said["code"] == 2
    assert "--max-lag-serials" in said["error"]
