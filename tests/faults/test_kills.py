"""Power failures: SIGKILL at more than thirty moments of clone, catchup, follow, rewind and promote.

After each one what is on disk is as good as it says, the same command goes on, and at the end the standby
equals its primary. The moments are chosen by what is there at the time, and by a seed.
"""

import json
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest

from replisync.standby.serverdir import Serverdir
from tests.faults.conftest import World
from tests.support.client import Client, file_path
from tests.support.devpi import Server
from tests.support.history import files_below, read_history
from tests.support.judge import Judge
from tests.support.oracle import assert_replicated, compare_histories
from tests.support.pgstandby import PostgresStandby, sequence
from tests.support.postgres import Postgres
from tests.support.proxy import Fault
from tests.support.runs import Background, run_here
from tests.support.snapshot import assert_promotable, last_serial
from tests.support.waiting import wait_until

SEED = 20_261_122
CHANGES = r"/\+changelog/\d+-"
MOST_DELAY_SECONDS = 0.08
# A command that gets one file after the other does not end before it is killed.
ONE_BY_ONE = ("--file-replication-threads", 1)

Condition = Callable[[], object]


def kill(running: Background, condition: Condition, moment: random.Random) -> None:
    """Kill a command that is still at work, some moment after a condition holds."""
    running.wait_for(condition, "the moment to kill it")
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(moment.uniform(0, MOST_DELAY_SECONDS))
    assert running.process.poll() is None, f"it ended before it was killed:\n{running.text}"
    running.kill()


def file_count(target: Path) -> int:
    """Return how many files are in place."""
    folder = target / "+files"
    return sum(1 for _ in files_below(folder)) if folder.exists() else 0


def assert_good_half(target: Path, primary_dir: Path) -> int:
    """Check that what an incomplete clone has is the primary's; return its serial."""
    assert not (target / ".nodeinfo").exists(), "a devpi-server would start on it"
    serial = last_serial(target)
    if serial >= 0:
        compare_histories(read_history(primary_dir), read_history(target), serial)
    for relpath in files_below(target / "+files") if (target / "+files").exists() else ():
        ours, theirs = ((folder / "+files" / relpath).read_bytes() for folder in (target, primary_dir))
        assert sha256(ours).digest() == sha256(theirs).digest(), f"{relpath} is only half there"
    return serial


def test_a_clone_that_is_killed(world: World) -> None:
    """Seven times in the metadata and in the files; then it finishes."""
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    target = world.folder / "new"
    log = world.folder / "clone.log"
    total = len(read_history(world.primary.serverdir).live_files)
    serials = sorted(moment.sample(range(world.serial // 2), 3))
    counts = sorted(moment.sample(range(total // 2), 4))
    conditions: list[Condition] = [lambda s=s: last_serial(target) >= s for s in serials]  # type: ignore[misc]
    conditions += [lambda c=c: file_count(target) >= c for c in counts]  # type: ignore[misc]
    world.proxy.add(Fault(path=CHANGES, bytes_per_second=150_000))
    world.proxy.add(Fault(path="/[a-z]+/[a-z]+/", delay_seconds=0.1, bytes_per_second=300_000))
    reached = -1
    for condition in conditions:
        with Background(log, "clone", *world.new(target), *ONE_BY_ONE) as clone:
            kill(clone, condition, moment)
        serial = assert_good_half(target, world.primary.serverdir)
        assert serial >= reached, "what was committed is gone"
        reached = serial
    world.proxy.clear()
    run_here("clone", *world.new(target))
    assert_replicated(world.primary, target)
    assert not list((target / ".replisync" / "tmp").iterdir())


class Changes:
    """What users do to one index, again and again: uploads, replacements, deletions."""

    def __init__(self, server: Server) -> None:
        """Log in."""
        self.client = Client(server.url).login("alice", "secret")
        self.random = random.Random(SEED)  # noqa: S311 - not for secrets
        self.number = 0
        self.files: list[str] = []

    def make(self, count: int) -> None:
        """Commit some changes."""
        for _ in range(count):
            self.number += 1
            payload = self.random.randbytes(20_000)
            choice = self.random.random()
            if choice < 0.5 or len(self.files) < 3:
                self.files.append(self.client.upload_wheel("alice/dev", "busy", f"1.{self.number}", payload))
            elif choice < 0.8:
                version = self.files.pop(0).rsplit("-")[-4]
                self.files.append(self.client.upload_wheel("alice/dev", "busy", version, payload))
            else:
                gone = self.files.pop(self.random.randrange(len(self.files)))
                self.client.request("DELETE", file_path(gone))


@pytest.fixture
def busy(world: World) -> Iterator[tuple[Server, Changes]]:
    """A copy of the primary, behind the proxy, that may be changed."""
    with world.lead_to(world.copied()) as server:
        changes = Changes(server)
        with changes.client:
            yield server, changes


def test_a_catchup_that_is_killed(world: World, busy: tuple[Server, Changes]) -> None:
    """Six times, before, between and within the commits; the standby could be promoted each time."""
    server, changes = busy
    changes.make(40)
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    target = world.standby()
    options = world.options(target, "--file-replication-threads", 2)
    world.proxy.add(Fault(path=CHANGES, bytes_per_second=100_000))
    world.proxy.add(Fault(path="/alice/", delay_seconds=0.05, bytes_per_second=50_000))
    reached = world.early_serial
    for _ in range(6):
        asked_for = world.proxy.count("/alice/") + moment.randrange(1, 5)
        with Background(world.folder / "catchup.log", "catchup", *options) as catchup:
            kill(catchup, lambda n=asked_for: world.proxy.count("/alice/") >= n, moment)  # type: ignore[misc]
        now = assert_promotable(target, server.serverdir)
        assert now >= reached, "what was committed is gone"
        reached = now
    world.proxy.clear()
    run_here("catchup", *options)
    assert_replicated(server, target, export=False)


def test_what_a_kill_leaves_of_files_that_are_deleted_meanwhile(
    world: World, busy: tuple[Server, Changes]
) -> None:
    """Neither a file that has its place but no serial yet stays, nor one that had half arrived."""
    server, changes = busy
    target = world.standby()
    run_here("catchup", *world.options(target))
    placed = changes.client.upload_wheel("alice/dev", "gone", "1.0", bytes(10_000))
    half = changes.client.upload_wheel("alice/dev", "gone", "2.0", bytes(10_000))
    staging = target / ".replisync" / "tmp"
    stalled = world.proxy.fault(path=f"/{quote(half)}", stall_after=5_000)
    log = world.folder / "catchup.log"
    with stalled, Background(log, "catchup", *world.options(target)) as catchup:
        arrived = lambda: (target / "+files" / placed).exists() and list(staging.iterdir())  # noqa: E731
        catchup.wait_for(arrived, "one file has arrived, and half of the other")
        catchup.kill()
    assert last_serial(target) == world.serial
    assert list(staging.iterdir())
    for relpath in (placed, half):
        changes.client.delete_file(relpath)
    run_here("catchup", *world.options(target))
    assert_replicated(server, target, export=False, fsck=False)
    assert not list(staging.iterdir())


@contextmanager
def going_on(changes: Changes) -> Iterator[None]:
    """Commit changes for the length of a with block."""
    enough = threading.Event()

    def work() -> None:
        while not enough.wait(0.05):
            changes.make(1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        enough.set()
        worker.join()


def test_a_follower_that_is_killed(world: World, busy: tuple[Server, Changes]) -> None:
    """Seven times, while the primary is written to; it catches up and goes on each time."""
    server, changes = busy
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    target = world.standby()
    log = world.folder / "follow.log"
    world.proxy.add(Fault(path="/alice/", bytes_per_second=400_000))
    reached = world.early_serial
    with going_on(changes):
        for _ in range(7):
            due = last_serial(target) + moment.randrange(1, 8)
            with Background(log, "follow", *world.options(target)) as follower:
                kill(follower, lambda due=due: last_serial(target) >= due, moment)  # type: ignore[misc]
            now = assert_promotable(target, server.serverdir)
            assert now >= reached, "what was committed is gone"
            reached = now
    world.proxy.clear()
    with Background(log, "follow", *world.options(target)) as follower:
        wait_until(lambda: last_serial(target) == server.serial(), 60, "the follower catches up")
        follower.stop()
    server.wait_for_events()
    assert_replicated(server, target)


def test_a_standby_in_postgresql_that_is_killed(
    world: World, busy: tuple[Server, Changes], postgres: Postgres
) -> None:
    """Clone, catchup and follow, twice each; files are rows there, and come and go with their serial."""
    server, changes = busy
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    judge = Judge(server.serverdir)
    log = world.folder / "log"
    standby = PostgresStandby(
        world.folder / "standby", world.proxy.url, world.secretfile, postgres.database()
    )
    world.proxy.add(Fault(path=CHANGES, bytes_per_second=400_000))
    world.proxy.add(Fault(path="/[a-z]+/[a-z]+/", delay_seconds=0.05, bytes_per_second=200_000))
    asked = world.proxy.count
    for count in sorted(moment.sample(range(1, 20), 2)):
        due = asked("/alice") + count
        with Background(log, "clone", *standby.new, *ONE_BY_ONE) as clone:
            kill(clone, lambda due=due: asked("/alice") >= due, moment)  # type: ignore[misc]
        assert not (standby.serverdir / ".nodeinfo").exists()
        judge.check(standby, whole=False)
    standby.clone()
    reached = judge.check(standby)
    with going_on(changes):
        for command in ["catchup", "follow"] * 2:
            server.wait_for_serial(standby.serial + 12)
            due = asked("/alice") + moment.randrange(1, 4)
            with Background(log, command, *standby.with_secret, *ONE_BY_ONE) as running:
                kill(running, lambda due=due: asked("/alice") >= due, moment)  # type: ignore[misc]
            now = judge.check(standby)
            assert now >= reached, "what was committed is gone"
            reached = now
    world.proxy.clear()
    standby.catchup()
    assert judge.check(standby) == server.serial()
    judge.check_nothing_more(standby)
    assert sequence(standby.database) == server.serial() + 1


def killed_while_it_holds(target: Path, log: Path, moment: random.Random, *command: object) -> None:
    """Run a command that takes no time, and kill it a moment after it took its target's lock."""
    with Background(log, *map(str, command)) as running:
        process = running.process
        while Serverdir(target).locked_by() is None and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.001)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment.uniform(0, 0.12))


def test_a_rewind_that_is_killed(world: World) -> None:
    """It has happened or it has not, with all files; then it happens, and the standby goes on from there."""
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    target = world.standby()
    run_here("catchup", *world.options(target))
    back = ("rewind", *world.options(target), "--to-serial", world.early_serial)
    for _ in range(4):
        killed_while_it_holds(target, world.folder / "log", moment, *back)
        assert assert_promotable(target, world.primary.serverdir) in (world.early_serial, world.serial)
    run_here(*map(str, back))
    assert last_serial(target) == world.early_serial
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_a_promotion_that_is_killed(world: World) -> None:
    """No replisync writes to it any more as soon as it may be one; the same command finishes it."""
    moment = random.Random(SEED)  # noqa: S311 - not for secrets
    for number in range(4):
        target = world.standby(f"promoted{number}")
        killed_while_it_holds(
            target, world.folder / "log", moment, "promote", "--serverdir", target, "--accept-loss"
        )
        assert_promotable(target, world.primary.serverdir)
        if json.loads((target / ".nodeinfo").read_bytes())["role"] == "replica":
            run_here("promote", "--serverdir", target, "--accept-loss")
        said = run_here("catchup", *world.options(target), code=6)
        assert "promoted" in said.message
    with Server(target, secretfile=world.secretfile) as server:
        assert server.serial() == world.early_serial
