"""The story: clone, follow, a crash, a failover, with the commands that an operator types."""

import json
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx

from tests.demo.stage import Process, Stage
from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.oracle import assert_replicated
from tests.support.packages import build_wheel
from tests.support.ports import free_port

INDEX = "alice/dev"
PASSWORD = "open sesame"
WHEEL_BYTES = 200_000
BURST = 40
# How far the standby is, of the burst, when `follow` is killed.
KILL_AFTER = 8
ARRIVAL_SECONDS = 30
BURST_SECONDS = 90


def play(stage: Stage) -> None:
    """Tell the whole story; raise where something is not as it should be."""
    print("A devpi-server, a standby that follows it, a crash and a failover: all of it real.")
    print(f"It happens in {stage.folder} and on 127.0.0.1.")
    primary = Server(Path("primary"), port=free_port())
    standby = Server(Path("standby"), port=free_port())
    process = a_primary(stage, primary)
    packages(stage, primary)
    clone(stage, primary)
    follower = follow(stage, primary)
    kill_and_resume(stage, primary, follower)
    prove(stage, primary)
    fail_over(stage, process, standby)
    use_the_new_primary(stage, standby)
    no_way_back(stage)


def a_primary(stage: Stage, primary: Server) -> Process:
    """Start a devpi-server from nothing."""
    stage.step("A primary")
    stage.run("devpi-gen-secret --secretfile secret", quiet=True)
    stage.run("devpi-init --serverdir primary --no-root-pypi", quiet=True)
    command = f"devpi-server --serverdir primary --role primary --secretfile secret --port {primary.port}"
    with _timed() as seconds:
        process = stage.start_server(command, primary)
    stage.say(f"it answers at {primary.url} after {seconds():.1f} s")
    return process


def packages(stage: Stage, primary: Server) -> None:
    """Fill the primary with packages that are built on the spot."""
    stage.step("A user, an index, and wheels that are built on the spot")
    for command in (
        f"devpi use {primary.url}",
        "devpi login root --password=''",
        f"devpi user --create alice 'password={PASSWORD}'",
        f"devpi login alice '--password={PASSWORD}'",
        "devpi index --create dev bases=",
        f"devpi use {INDEX}",
    ):
        stage.run(command, quiet=True)
    for name in ("apple", "berry", "cherry", "date", "elder"):
        _write_wheel("wheels", f"demo-{name}", "1.0")
    stage.run("devpi upload --from-dir wheels")


def clone(stage: Stage, primary: Server) -> None:
    """Copy the primary into a new serverdir."""
    stage.step("A clone: a full copy in a new serverdir, over the changelog")
    stage.run("replisync derive-key --secretfile secret --output replica.key")
    stage.run(
        f"replisync clone --primary-url {primary.url} --replica-keyfile replica.key --serverdir standby"
    )


def follow(stage: Stage, primary: Server) -> Process:
    """Follow, upload, and see each upload arrive."""
    stage.step("Follow: each change is applied as the primary commits it")
    process = _start_follow(stage)
    with _client(primary) as client, closing(_standby_database()) as database:
        latencies = [_upload_and_wait(client, database, primary, f"1.{minor}") for minor in range(1, 8)]
    for number, seconds in enumerate(latencies, 1):
        stage.say(f"upload {number}: file and serial are in the standby {seconds * 1000:.0f} ms later")
    stage.say(f"median {statistics.median(latencies) * 1000:.0f} ms after the primary's answer to the upload")
    return process


def kill_and_resume(stage: Stage, primary: Server, follower: Process) -> None:
    """Kill the follower in the middle of a burst, and go on where it was."""
    stage.step(f"A crash: {BURST} uploads in a row, and SIGKILL for `follow` in the middle of them")
    first = primary.serial()
    burst = threading.Thread(target=_upload_burst, args=(primary,), daemon=True)
    burst.start()
    with closing(_standby_database()) as database:
        reached = lambda: _serial(database) >= first + KILL_AFTER  # noqa: E731
        follower.wait_for(reached, "a part of the burst arrives", BURST_SECONDS)
        print(f"   $ kill -KILL {follower.pid}", flush=True)
        follower.kill()
        stopped_at = _serial(database)
        burst.join(BURST_SECONDS)
        assert primary.serial() >= first + BURST, "the burst did not end"
        stage.say(f"`follow` died at serial {stopped_at}; the primary went on to serial {primary.serial()}")
        _show_state(stage)
        with _timed() as seconds:
            again = _start_follow(stage)
            again.wait_for(lambda: _serial(database) >= primary.serial(), "the standby is current again")
    stage.say(f"it went on at serial {stopped_at + 1}, and was current {seconds():.1f} s after its start")
    stage.run("replisync status --serverdir standby")
    assert again.stop() == 0, f"follow did not end cleanly:\n{again.tail()}"


def prove(stage: Stage, primary: Server) -> None:
    """Compare both sides with code that is not replisync's."""
    stage.step("The proof: primary and standby side by side, with tools that share no code with replisync")
    primary.wait_for_events()
    assert_replicated(primary, Path("standby"))
    with closing(_standby_database()) as database:
        serials = _serial(database) + 1
        keys = database.execute("SELECT count(*) FROM kv").fetchone()[0]
    files = sum(path.is_file() for path in Path("standby/+files").rglob("*"))
    stage.say(f"equal: {serials} changelog entries, byte for byte; {keys} keys; {files} files")
    stage.say("devpi-fsck of the standby finds nothing; devpi-export of both sides is the same")


def fail_over(stage: Stage, process: Process, standby: Server) -> None:
    """Lose the primary, and make the standby the new one."""
    stage.step("A failover: the primary is gone, the standby takes over")
    print(f"   $ kill -KILL {process.pid}", flush=True)
    process.kill()
    stage.run("replisync promote --serverdir standby")
    command = f"devpi-server --serverdir standby --role primary --secretfile secret --port {standby.port}"
    with _timed() as seconds:
        stage.start_server(command, standby)
    stage.say(f"a stock devpi-server answers at {standby.url} after {seconds():.1f} s")


def use_the_new_primary(stage: Stage, standby: Server) -> None:
    """Install from the promoted standby and upload to it."""
    stage.step("The new primary is used")
    options = f"--index-url {standby.url}/{INDEX}/+simple/ --target"
    stage.run(f"pip install {options} site demo-burst=={BURST}.0 demo-apple")
    stage.say(f"installed: {', '.join(sorted(path.name for path in Path('site').glob('*.dist-info')))}")
    _write_wheel("more-wheels", "demo-after", "1.0")
    for command in (f"devpi use {standby.url}/{INDEX}", f"devpi login alice '--password={PASSWORD}'"):
        stage.run(command, quiet=True)
    stage.run("devpi upload --from-dir more-wheels")
    stage.run(f"pip install {options} site-after demo-after")
    assert Path("site-after/demo_after.py").is_file(), "pip installed something else"
    stage.say(f"an upload to it, and an install of what was uploaded; it is at serial {standby.serial()} now")


def no_way_back(stage: Stage) -> None:
    """Show that a promoted server is never written by replisync."""
    stage.step("From now on replisync keeps its hands off this serverdir (exit code 6)")
    stage.run("replisync catchup --serverdir standby --replica-keyfile replica.key", expect=6)


def _start_follow(stage: Stage) -> Process:
    command = "replisync follow --serverdir standby --replica-keyfile replica.key"
    log = Path("follow.log")
    seen = log.stat().st_size if log.exists() else 0
    process = stage.start(command, str(log))
    process.wait_for(lambda: b'"event": "following"' in log.read_bytes()[seen:], "`follow` follows")
    return process


def _show_state(stage: Stage) -> None:
    status = json.loads(stage.run("replisync status --serverdir standby --json", quiet=True))
    stage.say(
        f"state {status['state']!r}: serial {status['serial']} of {status['primary_serial']}, "
        f"{status['files_total'] - status['files_missing']} of {status['files_total']} files; "
        "it could be promoted as it is"
    )
    assert status["files_missing"] == 0, "a serial was committed before its files"


@contextmanager
def _client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client.login("alice", PASSWORD)


def _upload_and_wait(client: Client, database: sqlite3.Connection, primary: Server, version: str) -> float:
    relpath = client.upload(INDEX, "demo-apple", version, _wheel("demo-apple", version))
    answered = time.monotonic()
    serial = int(primary.headers()["X-DEVPI-SERIAL"])
    while _serial(database) < serial:
        assert time.monotonic() < answered + ARRIVAL_SECONDS, f"serial {serial} did not arrive"
        time.sleep(0.001)
    latency = time.monotonic() - answered
    assert Path("standby/+files", relpath).is_file(), "the serial is there, and its file is not"
    return latency


def _upload_burst(primary: Server) -> None:
    # Where it fails, the story misses the serials; where the demo is interrupted, nobody does.
    with suppress(OSError, httpx.HTTPError), _client(primary) as client:
        for major in range(1, BURST + 1):
            client.upload(INDEX, "demo-burst", f"{major}.0", _wheel("demo-burst", f"{major}.0"))


def _standby_database() -> sqlite3.Connection:
    path = Path("standby/.sqlite").absolute()
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def _serial(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT max(serial) FROM changelog").fetchone()[0])


def _wheel(name: str, version: str) -> tuple[str, bytes]:
    """Build a wheel of a size that real ones have."""
    return build_wheel(name, version, f"{name} {version} ".encode() * (WHEEL_BYTES // 20))


def _write_wheel(folder: str, name: str, version: str) -> None:
    filename, content = build_wheel(name, version)
    Path(folder).mkdir(exist_ok=True)
    Path(folder, filename).write_bytes(content)


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Give a function that tells the seconds between the two ends."""
    started = time.monotonic()
    ended: list[float] = []
    yield lambda: (ended or [time.monotonic()])[0] - started
    ended.append(time.monotonic())
