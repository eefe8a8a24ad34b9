"""A devpi-server that serves a standby while replisync is its only writer.

The plugin under test is found by devpi-server through replisync's entry point, so replisync has to be
installed in the environment that runs these tests.
"""

import hashlib
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import JSON, Client, file_path, file_relpath
from tests.support.devpi import FAST_ARGON2, Server
from tests.support.packages import build_wheel
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

HTML = {"Accept": "text/html"}
PIP = {"User-Agent": "pip/24.0", "Accept": "application/vnd.pypi.simple.v1+json, text/html; q=0.1"}
ANYTHING = {"Accept": "*/*"}

STOP_SECONDS = 30
DEADLINE_SECONDS = 60
# Well before the primary answers a request that it holds, which it does after 30 seconds.
PROMPT_SECONDS = 20


@pytest.fixture(scope="module", autouse=True)
def _plugin_is_installed() -> None:
    """Say what is missing rather than fail in every test."""
    plugins = {entry_point.value for entry_point in entry_points(group="devpi_server")}
    assert "replisync.plugin" in plugins, "install replisync here first: pip install -e ."


class Follower:
    """`replisync follow` as a process; also a context manager that stops it."""

    def __init__(self, serverdir: Path, secretfile: Path) -> None:
        self._args = ["follow", "--serverdir", str(serverdir), "--secretfile", str(secretfile), *FAST_ARGON2]
        self._log = serverdir.with_name("follow.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start to follow, unless that goes on."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command(*self._args), stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """End the process politely, by force after a deadline."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass
class HotStandby:
    """A primary, the standby of it, the process that writes it and the one that serves it."""

    upstream: Upstream
    primary: Server
    serverdir: Path
    follower: Follower
    worker: Server
    deleted: str  # relpath of a release that was deleted
    withdrawn: str  # relpath of a mirror file that is neither on the primary nor upstream any more

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask the hot standby for a page, whatever comes of it."""
        with Client(self.worker.url) as client:
            return client.http.get(path, headers=headers or ANYTHING)

    def status(self) -> dict[str, Any]:
        """Return what `/+status` says."""
        with Client(self.worker.url) as client:
            result: dict[str, Any] = client.json("GET", "/+status")
        return result

    def messages(self) -> list[str]:
        """Return the status messages of devpi-web, each with its weight."""
        page = self.get("/+status", HTML)
        assert page.status_code == 200, page.text
        section = re.search(r"<h2>Status messages</h2>(.*?)</ul>", page.text, re.DOTALL)
        items = re.findall(r"<li>(.*?)</li>", section[1], re.DOTALL) if section else []
        return [" ".join(re.sub(r"<[^>]*>", " ", item).split()) for item in items]

    def file(self, relpath: str) -> Path:
        """Return where a file lies in the standby."""
        return self.serverdir / "+files" / relpath


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "replisync", *args]


def run_replisync(*args: str) -> None:
    done = subprocess.run(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout


@contextmanager
def hot_standby(folder: Path, secretfile: Path) -> Iterator[HotStandby]:
    """Run all four, with a bit of every content that matters to whoever serves it."""
    serverdir = folder / "standby"
    with Upstream() as upstream, Server(folder / "primary", secretfile=secretfile).init() as primary:
        deleted, withdrawn = fill(primary, upstream)
        run_replisync(
            *("clone", "--primary-url", primary.url, "--secretfile", str(secretfile)),
            *("--serverdir", str(serverdir), *FAST_ARGON2),
        )
        worker = Server(
            serverdir,
            role="replica",
            secretfile=secretfile,
            primary_url=primary.url,
            requests_only=True,
            web=True,
        )
        with Follower(serverdir, secretfile) as follower, worker:
            yield HotStandby(upstream, primary, serverdir, follower, worker, deleted, withdrawn)


def fill(primary: Server, upstream: Upstream) -> tuple[str, str]:
    for project in ("cached", "listed", "unseen", "withdrawn"):
        upstream.add_wheel(project, "1.0", project.encode())
    with Client(primary.url) as client:
        client.login()
        client.create_mirror("root/mirror", upstream.simple_url)
        client.create_index("root/dev", volatile=True)
        client.create_index("root/mixed", bases=["root/dev", "root/mirror"], mirror_whitelist=["*"])
        for version in ("1.0", "1.1"):
            client.upload_wheel("root/dev", "ours", version, version.encode())
        client.upload_docs("root/dev", "ours", "1.1")
        deleted = client.upload_wheel("root/dev", "deleted", "1.0")
        client.delete_version("root/dev", "deleted", "1.0")
        client.simple("root/mirror", "listed")
        for project in ("cached", "withdrawn"):
            relpath = client.links("root/mirror", project)[filename(project)]
            client.fetch(relpath)
            # The primary keeps the file after it has delivered it.
            wait_until(
                (primary.serverdir / "+files" / relpath).exists, DEADLINE_SECONDS, f"{relpath} is kept"
            )
    primary.wait_for_events()
    (primary.serverdir / "+files" / relpath).unlink()
    upstream.remove_file("withdrawn", filename("withdrawn"))
    return deleted, relpath


def filename(project: str, version: str = "1.0") -> str:
    return build_wheel(project, version)[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[HotStandby]:
    """The hot standby of all tests, in whatever state the last one left it."""
    with hot_standby(tmp_path_factory.mktemp("hot"), secretfile) as found:
        yield found


@pytest.fixture
def hot(shared: HotStandby) -> HotStandby:
    """A hot standby with all its processes running."""
    if not shared.primary.running:
        shared.primary.start()
    shared.follower.start()
    return shared


@pytest.fixture
def paused(shared: HotStandby) -> HotStandby:
    """A hot standby whose replisync is stopped, for tests that say in its tables how it fared."""
    shared.follower.stop()
    execute(shared.serverdir, "DELETE FROM replisync_faults")
    return shared


@pytest.fixture
def broken(paused: HotStandby, tmp_path: Path) -> Iterator[HotStandby]:
    """A hot standby whose replisync is stopped, and whose database may be damaged."""
    paused.worker.stop()
    database, kept = paused.serverdir / ".sqlite", tmp_path / "kept"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(kept)) as copy:
        source.backup(copy)
    yield paused
    paused.worker.stop()
    for path in paused.serverdir.glob(".sqlite*"):
        path.unlink()
    shutil.copy(kept, database)
    paused.worker.start()


# What is served


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/+api", JSON, 200),
        ("/", JSON, 200),
        ("/root/dev", JSON, 200),
        ("/root/mirror", JSON, 200),
        ("/root/dev/ours", JSON, 200),
        ("/root/dev/ours/1.0", JSON, 200),
        ("/root/mirror/cached", JSON, 200),
        ("/+status", JSON, 200),
        ("/root/dev/+simple/", PIP, 200),
        ("/root/dev/+simple/ours/", PIP, 200),
        ("/root/dev/+simple/missing/", PIP, 404),
        ("/root/mirror/+simple/", PIP, 200),
        ("/root/mirror/+simple/cached/", PIP, 200),
        ("/root/mirror/+simple/listed/", PIP, 200),
        ("/root/mirror/+simple/missing/", PIP, 404),
        ("/root/mixed/+simple/", PIP, 200),
        ("/root/mixed/+simple/ours/", PIP, 200),
        ("/root/mixed/+simple/cached/", PIP, 200),
        ("/root/mixed/+simple/missing/", PIP, 404),
        ("/", HTML, 200),
        ("/root", HTML, 200),
        ("/root/dev", HTML, 200),
        ("/root/mirror", HTML, 200),
        ("/root/mixed", HTML, 200),
        ("/root/dev/ours", HTML, 200),
        ("/root/dev/ours/1.1", HTML, 200),
        ("/root/dev/ours/latest", HTML, 200),
        ("/root/dev/ours/1.1/+doc/index.html", HTML, 200),
        ("/root/dev/ours/1.1/+d/index.html", HTML, 200),
        ("/root/mirror/cached", HTML, 200),
        ("/root/mirror/cached/1.0", HTML, 200),
        ("/root/mixed/listed", HTML, 200),
        ("/+search?query=ours", HTML, 200),
        ("/+searchhelp", HTML, 200),
        ("/+status", HTML, 200),
        ("/root/dev/missing", HTML, 404),
        ("/root/missing", HTML, 404),
        ("/missing/index/project", HTML, 404),
    ],
)
def test_page_is_served(hot: HotStandby, path: str, headers: dict[str, str], expected: int) -> None:
    """What people, pip and the devpi client ask for is answered as a primary answers it."""
    answer = hot.get(path, headers)
    assert answer.status_code == expected, answer.text


@pytest.mark.parametrize("headers", [ANYTHING, PIP, HTML])
def test_deleted_file_is_gone(hot: HotStandby, headers: dict[str, str]) -> None:
    """A release that was deleted is answered with 410, which pip and browsers can tell from a failure."""
    assert hot.get(file_path(hot.deleted), headers).status_code == 410


@pytest.mark.parametrize("index", ["root/dev", "root/mirror", "root/mixed"])
def test_simple_pages_equal_the_primarys(hot: HotStandby, index: str) -> None:
    """Project lists and links are the primary's, on private indexes, mirrors and mixtures."""
    with Client(hot.primary.url) as primary, Client(hot.worker.url) as standby:
        assert standby.simple(index) == primary.simple(index)
        for project in {"ours", "cached", "listed"} & set(re.findall(r"\w+", primary.simple(index))):
            assert standby.links(index, project) == primary.links(index, project)


def test_mirror_project_that_nobody_asked_for_is_fetched(hot: HotStandby) -> None:
    """The first request for a project makes the primary ask its upstream, and waits for what it learns."""
    with Client(hot.worker.url) as standby:
        assert filename("unseen") in standby.links("root/mirror", "unseen")


def test_mirror_file_that_nobody_asked_for_is_fetched(hot: HotStandby) -> None:
    """The first request for a mirror's file is answered, and the file stays when its serial arrives."""
    before = hot.primary.serial()
    with Client(hot.worker.url) as standby:
        relpath = standby.links("root/mirror", "listed")[filename("listed")]
        content = build_wheel("listed", "1.0", b"listed")[1]
        assert standby.fetch(relpath) == content
        wait_until(lambda: hot.primary.serial() > before, DEADLINE_SECONDS, "the primary caches the file")
        hot.worker.wait_for_serial(hot.primary.serial())
        assert standby.fetch(relpath) == content
    assert hot.file(relpath).read_bytes() == content


def test_missing_file_is_fetched_from_the_primary(hot: HotStandby) -> None:
    """A private file that is not on the standby's disk is delivered and put in its place."""
    content = build_wheel("ours", "1.0", b"1.0")[1]
    relpath = file_relpath("root/dev", filename("ours"), content)
    hot.file(relpath).unlink()
    with Client(hot.worker.url) as standby:
        assert standby.fetch(relpath) == content
    wait_until(hot.file(relpath).exists, DEADLINE_SECONDS, "the file is back")
    assert hot.file(relpath).read_bytes() == content


# What is relayed


def test_upload_is_readable_as_soon_as_it_is_answered(hot: HotStandby) -> None:
    """An upload through the standby is there when it is answered, which waits for no end of a poll."""
    with Client(hot.worker.url, timeout_seconds=PROMPT_SECONDS) as standby:
        standby.login()
        for number in range(5):
            version = f"2.{number}"
            relpath = standby.upload_wheel("root/dev", "relayed", version)
            assert filename("relayed", version) in standby.links("root/dev", "relayed")
            assert standby.fetch(relpath) == build_wheel("relayed", version)[1]


def test_changes_of_every_kind_are_relayed(hot: HotStandby) -> None:
    """Documentation, metadata, deletions, indexes and users can be changed through the standby."""
    with Client(hot.worker.url) as standby:
        standby.login()
        relpath = standby.upload_wheel("root/dev", "changed", "1.0")
        standby.upload_docs("root/dev", "changed", "1.0")
        assert hot.get("/root/dev/changed/1.0/+doc/index.html", HTML).status_code == 200
        standby.delete_version("root/dev", "changed", "1.0")
        assert hot.get(file_path(relpath)).status_code == 410
        standby.create_user("newcomer")
        standby.create_index("newcomer/dev")
        assert "dev" in standby.users()["newcomer"]["indexes"]
        standby.delete_user("newcomer")
        assert "newcomer" not in standby.users()


def test_relayed_upload_waits_for_replisync(hot: HotStandby) -> None:
    """While replisync is down an upload reaches the primary, and is answered when replisync is back."""
    hot.follower.stop()
    before = hot.primary.serial()
    patient = Client(hot.worker.url, timeout_seconds=2 * DEADLINE_SECONDS)
    with patient as standby, ThreadPoolExecutor(1) as pool:
        standby.login()
        upload = pool.submit(standby.upload_wheel, "root/dev", "waiting", "1.0")
        wait_until(lambda: hot.primary.serial() > before, DEADLINE_SECONDS, "the primary has the upload")
        assert hot.get("/root/dev", JSON).status_code == 200
        assert not upload.done()
        hot.follower.start()
        relpath = upload.result(DEADLINE_SECONDS)
        assert standby.fetch(relpath) == build_wheel("waiting", "1.0")[1]


# What is said of the state


def test_status_tells_how_replication_fares(hot: HotStandby) -> None:
    """`/+status` has the primary's serial, when it was last heard of, and when ours last equalled it."""
    serial = hot.primary.serial()
    status = wait_until(
        lambda: (found := hot.status())["primary-serial"] == found["serial"] >= serial and found,
        DEADLINE_SECONDS,
        "the standby is in sync and says so",
    )
    assert status["role"] == "REPLICA"
    assert status["primary-url"] == hot.primary.url
    assert status["primary-uuid"] == hot.primary.uuid()
    assert status["master-serial"] == status["primary-serial"]
    assert status["master-contacted-at"] == status["primary-contacted-at"]
    now = time.time()
    for name in ("primary-contacted-at", "update-from-primary-at", "replica-in-sync-at"):
        assert now - DEADLINE_SECONDS < status[name] <= now, name
    assert status["primary-serial-timestamp"] <= now
    assert status["replica-started-at"] <= now


def test_fault_is_a_warning_with_its_file(hot: HotStandby) -> None:
    """A file that could not be had is named in the status, but does not put an alarm on every page."""
    wait_until(lambda: hot.status()["primary-serial"] is not None, DEADLINE_SECONDS, "the status is known")
    assert list(hot.status()["replication-errors"]) == [hot.withdrawn]
    assert "Warning: Files that the primary did not deliver: 1" in hot.messages()
    assert hot.withdrawn in hot.get("/+status", HTML).text
    assert 'id="serverstatus"' not in hot.get("/", HTML).text


def test_silence_of_the_primary_is_reported(paused: HotStandby) -> None:
    """devpi-web warns of a minute without contact, and raises the alarm after five."""
    for seconds, expected in [
        (30, []),
        (90, ["Warning: No update from primary for more than 1 minute"]),
        (600, ["Error: No update from primary for more than 5 minutes"]),
    ]:
        set_contact(paused, contacted_seconds_ago=seconds, in_sync_seconds_ago=seconds, behind=0)
        wait_for_messages(paused, expected)


def test_lag_is_reported(paused: HotStandby) -> None:
    """A standby that hears of serials is behind without a word for a while, and says so after minutes."""
    for seconds, expected in [
        (60, []),
        (600, ["Warning: Replica is behind primary for more than 5 minutes"]),
    ]:
        set_contact(paused, contacted_seconds_ago=1, in_sync_seconds_ago=seconds, behind=5)
        wait_for_messages(paused, expected)


def test_status_without_readable_tables_is_unknown(broken: HotStandby) -> None:
    """Without tables that we can read every page is served, and the fields of the status are empty."""
    for change in (
        "UPDATE replisync_contact SET contacted_at = 'once upon a time'",
        "ALTER TABLE replisync_contact RENAME COLUMN primary_serial TO something_else",
        "DROP TABLE replisync_contact",
    ):
        broken.worker.stop()
        execute(broken.serverdir, change)
        broken.worker.start()
        status = broken.status()
        for name in ("primary-serial", "primary-contacted-at", "replica-in-sync-at", "replica-started-at"):
            assert status[name] is None, (name, change)
        assert status["replication-errors"] == {}, change
        assert broken.messages() == [], change
        assert broken.get("/root/mirror/+simple/cached/", PIP).status_code == 200, change


# Where it keeps out of the way


def test_serving_writes_nothing_into_the_database(paused: HotStandby) -> None:
    """The serving process leaves every byte of the database as replisync wrote it."""
    database = paused.serverdir / ".sqlite"
    before = digest(database)
    content = build_wheel("ours", "1.0", b"1.0")[1]
    relpath = file_relpath("root/dev", filename("ours"), content)
    paused.file(relpath).unlink()
    for headers in (HTML, ANYTHING):
        for path in ("/", "/root/mirror", "/root/mirror/+simple/cached/", "/+status", file_path(relpath)):
            assert paused.get(path, headers).status_code == 200, path
        # Not asked for meanwhile: two requests that fetch one file disturb each other in devpi-server.
        wait_until(paused.file(relpath).exists, DEADLINE_SECONDS, "the missing file was put in its place")
    assert digest(database) == before


def test_standby_serves_while_the_primary_is_down(hot: HotStandby) -> None:
    """Without its primary the standby serves what it has: pages, mirror pages, files and its status."""
    with Client(hot.worker.url) as standby:
        links = standby.links("root/mirror", "cached")
        hot.primary.stop()
        assert standby.links("root/mirror", "cached") == links
        assert standby.fetch(links[filename("cached")]) == build_wheel("cached", "1.0", b"cached")[1]
        assert filename("ours") in standby.links("root/mixed", "ours")
    for path in ("/", "/root/dev/ours", "/root/mirror/cached", "/+status"):
        assert hot.get(path, HTML).status_code == 200, path


def test_devpis_own_replica_keeps_its_thread(primary: Server, tmp_path: Path, secretfile: Path) -> None:
    """Neither a primary nor devpi's own replica sees the plugin do anything: both replicate as ever."""
    replica = Server(tmp_path / "replica", role="replica", secretfile=secretfile, primary_url=primary.url)
    with Client(primary.url) as client, replica.init():
        assert client.json("GET", "/+status")["role"] == "MASTER"
        client.login()
        client.create_index("root/dev")
        relpath = client.upload_wheel("root/dev", "ours", "1.0")
        replica.wait_for_serial(primary.serial())
        file = replica.serverdir / "+files" / relpath
        wait_until(file.exists, DEADLINE_SECONDS, "the replica has the file")
        with Client(replica.url) as standby:
            status = standby.json("GET", "/+status")
        assert status["primary-serial"] == primary.serial()
        assert "devpi-replisync" in status["versioninfo"]


def test_plugin_costs_devpi_server_next_to_nothing() -> None:
    """Loading the plugin imports nothing else of replisync, and no library that devpi-server may not need."""
    script = (
        "import sys, pluggy; before = set(sys.modules)\n"
        "import replisync.plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    modules = done.stdout.split()
    assert {name for name in modules if name.startswith("replisync")} == {"replisync", "replisync.plugin"}
    assert {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) == {"replisync"}


def wait_for_messages(standby: HotStandby, expected: Sequence[str]) -> None:
    wait_until(lambda: standby.messages() == expected, DEADLINE_SECONDS, f"devpi-web says {expected}")


def set_contact(
    standby: HotStandby, *, contacted_seconds_ago: float, in_sync_seconds_ago: float, behind: int
) -> None:
    now = datetime.now(UTC)
    execute(
        standby.serverdir,
        "UPDATE replisync_contact SET contacted_at = ?, in_sync_at = ?, primary_serial = ?",
        (now - timedelta(seconds=contacted_seconds_ago)).isoformat(),
        (now - timedelta(seconds=in_sync_seconds_ago)).isoformat(),
        standby.worker.serial() + behind,
    )


def execute(serverdir: Path, statement: str, *values: str | int) -> None:
    with closing(sqlite3.connect(serverdir / ".sqlite", timeout=DEADLINE_SECONDS)) as database, database:
        database.execute(statement, values)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
