"""What anyone who reaches a primary, or a page that one of its mirrors reads, can put into its history."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.content import Client
from tests.support.devpi import Server
from tests.support.history import connect, read_history, serialize
from tests.support.oracle import compare_histories
from tests.support.pgstandby import PostgresStandby, history
from tests.support.postgres import Postgres
from tests.support.runs import run_here
from tests.support.standby import Standby
from tests.support.upstream import Upstream

# The longest name that compression makes no shorter, for the index of PostgreSQL.
LONG = random.Random(1).randbytes(1500).hex()  # noqa: S311
HEX = hashlib.sha256(b"odd").hexdigest()

ODD_LINKS = [
    f"/files/odd/odd{{0}}-1%00.zip#sha256={HEX}",
    "/files/odd/odd{0}-1.zip#sha256=",
    "/files/odd/odd{0}-1.zip#sha256=a",
    "/files/odd/odd{0}-1.zip#sha256=abc",
    "/files/odd/odd{0}-1.zip#md5=",
    "/files/odd/odd{0}-1.zip#sha256=../../../../../../escaped",
    "/files/odd/odd{0}-1.zip#sha256=..%2f..%2f..%2fescaped",
    f"/files/odd/odd{{0}}-1-{LONG}.zip#sha256={HEX}",
    f"/files/odd/..%2f..%2fodd{{0}}-1.zip#sha256={HEX}",
    "/files/odd/odd{0}-1%00.zip",
    f"/files/odd/odd{{0}}-1.zip#sha256=%00{HEX}",
    f"/files/odd/odd{{0}}-1%0a%1b[31m.zip#sha256={HEX}",
    f"/files/odd/odd{{0}}-1.zip#sha256={HEX[:20]}",
    f"/files/odd/odd{{0}}-1.zip#nosuch={HEX}",
]

FILE = {"last_modified": "Sun, 22 Nov 2026 11:39:23 GMT", "hash_spec": f"sha256={HEX}"}

# What only a plugin, or a tool that writes to the database, could commit: relpath, and the value of its key.
ROWS = [
    *(("root/dev/+f/abc/def/nul\0.zip", FILE), ("../../escaped", FILE), ("/etc/escaped", FILE), ("", FILE)),
    *(("root/dev/+f/../../../.replisync/lock", FILE), ("root/dev/+f/abc//x.zip", None)),
    ("root/dev/+f/abc/def/" + "y" * 300, FILE),
    ("root/dev/+f/abc/" + LONG, FILE),
]

# The same of files that could be here, and that the primary does not have: each holds its serial back.
HOLDING = [
    ("root/dev/+f/abc/ok/no-digest", {**FILE, "hash_spec": "sha256=../\0/zz"}),
    ("root/dev/+f/abc/ok/odd-types", {"last_modified": [1], "hash_spec": 5, "hashes": {1: 2, "md5": {}}}),
]


def commit_rows(primary: Server, rows: Iterable[tuple[str, object]]) -> None:
    """Write entries into the database of a primary, which does not run meanwhile."""
    primary.stop()
    with closing(connect(primary.serverdir, write=True)) as database, database:
        [[last]] = database.execute("SELECT max(serial) FROM changelog")
        for serial, (key, value) in enumerate(rows, last + 1):
            before = database.execute("SELECT serial FROM kv WHERE key = ?", (key,)).fetchone()
            entry = serialize(({key: ("STAGEFILE", before[0] if before else -1, value)}, []))
            database.execute("INSERT INTO changelog VALUES (?, ?)", (serial, entry))
            database.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", (key, "STAGEFILE", serial))
    primary.start()


def make_odd_user(client: Client, name: str) -> None:
    """Make a user who is called like a folder, with an upload."""
    client.create_user(name)
    with Client(client.url) as own:
        own.login(unquote(name), "secret")
        own.create_index(f"{name}/dev", volatile=True)
        own.upload_wheel(f"{name}/dev", "escaping", "1.0")


@pytest.fixture
def hostile(tmp_path: Path, secretfile: Path) -> Iterator[Server]:
    """A primary with all of that, and an upload behind it."""
    with Upstream() as upstream, Server(tmp_path / "primary", secretfile=secretfile).init() as primary:
        with Client(primary.url).login() as client:
            client.create_index("root/dev", volatile=True)
            make_odd_user(client, "%2e%2e")
            client.create_mirror("root/up", upstream.simple_url)
            for number, href in enumerate(ODD_LINKS):
                upstream.add_wheel(f"odd{number}", "0.1")
                upstream.links[f"odd{number}"] = [href.format(number)]
            for number in range(len(ODD_LINKS)):
                # Some of them the primary itself cannot use.
                client.http.get(f"/root/up/+simple/odd{number}/")
        commit_rows(primary, ROWS)
        with Client(primary.url).login() as client:
            client.upload_wheel("root/dev", "behind", "1.0")
        yield primary


@pytest.fixture(params=["sqlite", "postgres"])
def standby(request: pytest.FixtureRequest, tmp_path: Path, secretfile: Path, hostile: Server) -> Standby:
    """A standby still to be made."""
    if request.param == "sqlite":
        return Standby(tmp_path / "standby", hostile.url, secretfile)
    server: Postgres = request.getfixturevalue("postgres")
    return PostgresStandby(tmp_path / "standby", hostile.url, secretfile, server.database())


def check_history(primary: Server, standby: Standby) -> None:
    """Check that all entries are the primary's, and all rows of keys that the database can have."""
    theirs = read_history(primary.serverdir)
    if not isinstance(standby, PostgresStandby):
        compare_histories(theirs, read_history(standby.serverdir), theirs.last_serial)
        return
    ours = history(standby.database)
    lacking = {key: row for key, row in theirs.kv.items() if "\0" in key or len(key) > 2704}
    assert lacking
    compare_histories(theirs, replace(ours, kv={**lacking, **ours.kv}), theirs.last_serial)
    assert lacking.keys().isdisjoint(ours.kv)


def test_it_is_stored_exactly_and_stands_in_nobodys_way(
    hostile: Server, standby: Standby, tmp_path: Path
) -> None:
    """It can be cloned, followed, verified, rewound and promoted, and a stock devpi-server starts on it."""
    standby.clone()
    check_history(hostile, standby)
    unfetchable = {path for path, fault in standby.faults().items() if fault["kind"] == "unfetchable"}
    assert unfetchable == set(standby.faults())
    assert unfetchable >= {"../../escaped", "/etc/escaped", "", "root/dev/+f/abc/def/" + "y" * 300}
    assert any(path.startswith("../dev/+f/") for path in unfetchable)
    with standby.follow() as follower, Client(hostile.url).login() as client:
        make_odd_user(client, "%2e")
        client.upload_wheel("root/dev", "behind", "2.0")
        client.delete_user("%2e")
        follower.wait_for(lambda: standby.serial == hostile.serial(), "it has what came behind")
        follower.stop()
    check_history(hostile, standby)
    assert standby.verify("primary")["findings"] == []
    # Private files that the primary cannot give still hold their serials, and can be skipped.
    commit_rows(hostile, HOLDING)
    assert "faults list" in standby.catchup("--patience", "1", code=3).message
    held = [path for path, fault in standby.faults().items() if fault["kind"] == "held"]
    assert held == [path for path, _ in HOLDING]
    for relpath in held:
        run_here("faults", "skip", *standby.own, relpath)
    standby.catchup()
    check_history(hostile, standby)
    commit_rows(hostile, [(path, None) for path, _ in HOLDING])
    standby.catchup()
    standby.rewind(5)
    standby.catchup()
    check_history(hostile, standby)
    assert standby.verify("full", "--repair")["findings"] == []
    done = standby.promote()
    assert done["missing_files"] == 0
    assert "files that can never be fetched are missing" in str(done["warnings"])
    assert list(tmp_path.rglob("*escaped*")) == []
    storage = standby.database.spec if isinstance(standby, PostgresStandby) else None
    with Server(standby.serverdir, secretfile=standby.secretfile, storage=storage) as promoted:
        with Client(promoted.url).login() as client:
            client.upload_wheel("root/dev", "behind", "3.0")
            client.request("GET", "/root/up/+simple/odd3/")
        assert promoted.serial() > hostile.serial()


def test_a_copy_of_the_serverdir_and_a_plan_take_it_too(
    hostile: Server, tmp_path: Path, secretfile: Path
) -> None:
    standby = Standby(tmp_path / "standby", hostile.url, secretfile)
    ways: tuple[tuple[object, ...], ...] = ((), ("--from-serverdir", hostile.serverdir))
    for way in ways:
        said = standby.clone("--plan", "--json", *way)
        assert json.loads(said.stdout)["files"] == 1
    standby.clone(*ways[1])
    check_history(hostile, standby)
    assert {fault["kind"] for fault in standby.faults().values()} == {"unfetchable"}
    assert standby.verify("primary")["findings"] == []
    assert list(tmp_path.rglob("*escaped*")) == []
