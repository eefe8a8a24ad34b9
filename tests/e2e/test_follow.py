"""Following: each change as it is committed, through absences of the primary, until told to stop."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.clock import ShiftedClock
from tests.support.content import build_wheel
from tests.support.devpi import Server
from tests.support.history import connect, read_history
from tests.support.oracle import assert_files, assert_replicated
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Background, run_here
from tests.support.snapshot import assert_promotable
from tests.support.standby import Standby
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

ARRIVE_SECONDS = 30
# Well before the primary answers a request that it holds, which it does after 30 seconds.
PROMPT_SECONDS = 20

FILES = "/root/dev/%2Bf"
# The request that the primary holds until there is a change.
POLL = r"/\+changelog/\d+-?$"
YEAR = 365 * 86400


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The upstream of the primary's mirror."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def primary(
    tmp_path_factory: pytest.TempPathFactory, secretfile: Path, upstream: Upstream
) -> Iterator[Server]:
    """A primary with an index and a mirror, which all tests here change."""
    serverdir = tmp_path_factory.mktemp("follow") / "primary"
    with Server(serverdir, secretfile=secretfile).init() as server:
        with Client(server.url).login() as client:
            client.create_index("root/dev", volatile=True)
            client.create_mirror("root/mirror", upstream.simple_url, mirror_cache_expiry=0)
            client.upload_wheel("root/dev", "first", "1.0")
        yield server


@pytest.fixture
def client(primary: Server) -> Iterator[Client]:
    """Root, logged in at the primary."""
    with Client(primary.url).login() as client:
        yield client


@pytest.fixture
def proxy(primary: Server) -> Iterator[Proxy]:
    """The way from the standby to the primary."""
    with Proxy(primary.url) as proxy:
        yield proxy


@pytest.fixture
def standby(tmp_path: Path, proxy: Proxy, secretfile: Path) -> Standby:
    """A standby that is up to date."""
    standby = Standby(tmp_path / "standby", proxy.url, secretfile)
    standby.clone()
    return standby


def wait_for(standby: Standby, serial: int) -> None:
    """Return when the standby has a serial."""
    wait_until(lambda: standby.serial >= serial, ARRIVE_SECONDS, f"serial {serial} arrives")


def stop_promptly(follower: Background) -> None:
    """Ask the process to end; check that it does so soon, and without complaint."""
    end_promptly(follower, signal.SIGTERM)


def end_promptly(follower: Background, number: signal.Signals) -> None:
    """End the process by a signal; check that it does so soon, and without complaint."""
    follower.process.send_signal(number)
    follower.process.wait(PROMPT_SECONDS)
    follower.end(0)


def polls(proxy: Proxy) -> int:
    """Return how many requests waited for a change."""
    return sum("initial_fetch" not in path for path in proxy.paths("/+changelog/"))


def test_changes_arrive_as_they_are_committed(
    primary: Server, client: Client, standby: Standby, proxy: Proxy
) -> None:
    """Each change is there within moments, without a further poll for those before it, and is exact."""
    with standby.follow() as follower:
        for version in ("1.0", "1.1", "1.2"):
            relpath = client.upload_wheel("root/dev", "arriving", version)
            wait_for(standby, primary.serial())
            assert (standby.serverdir / "+files" / relpath).is_file()
        client.delete_version("root/dev", "arriving", "1.1")
        wait_for(standby, primary.serial())
        wait_until(lambda: standby.status()["state"] == "current", ARRIVE_SECONDS, "it says so")
        stop_promptly(follower)
    assert polls(proxy) < 20, "it does not spin"
    assert_replicated(primary, standby.serverdir, export=False)


def test_absences_of_the_primary_are_waited_out(
    primary: Server, client: Client, standby: Standby, proxy: Proxy
) -> None:
    """A restarted primary, one that is away, and one that is frozen are followed again when they are back."""
    with standby.follow() as follower:
        primary.restart()
        client.upload_wheel("root/dev", "absent", "1.0")
        wait_for(standby, primary.serial())
        proxy.refuse()
        follower.wait_for_log("retrying")
        client.upload_wheel("root/dev", "absent", "2.0")
        assert standby.serial < primary.serial()
        assert standby.status()["state"] == "stale"
        proxy.accept()
        wait_for(standby, primary.serial())
        stop_promptly(follower)
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


@pytest.mark.parametrize("effect", [{"status": 504}, {"status": 408}, {"disconnect": True}])
def test_a_proxy_with_less_patience_than_a_poll_is_no_failure(
    primary: Server, client: Client, standby: Standby, proxy: Proxy, effect: dict[str, Any]
) -> None:
    """Changes arrive all the same; one line advises the operator, and a bounded run does not end."""
    proxy.add(Fault(path=POLL, delay_seconds=1.2, **effect))
    with standby.follow("--timeout", 3) as follower:
        follower.wait_for_log("polls of the changelog end early")
        client.upload_wheel("root/dev", "impatient", "1.0")
        wait_for(standby, primary.serial())
        before = polls(proxy)
        follower.wait_for(lambda: polls(proxy) >= before + 3, "it goes on for longer than its patience")
        assert "retrying" not in follower.text
        assert follower.text.count("polls of the changelog end early") == 1
        stop_promptly(follower)


def test_a_connection_that_is_back_is_said_once(standby: Standby, proxy: Proxy) -> None:
    """So that the log tells how long it was away."""
    with standby.follow() as follower:
        proxy.refuse()
        proxy.drop_connections()
        follower.wait_for_log("retrying")
        proxy.accept()
        follower.wait_for_log("resumed")
        stop_promptly(follower)
    assert follower.text.count('"resumed"') == 1


def test_a_clock_that_jumps_while_we_follow(
    primary: Server, client: Client, standby: Standby, tmp_path: Path
) -> None:
    """Ours is set forwards and backwards, by minutes and by years: changes arrive as if nothing had been."""
    clock = ShiftedClock(tmp_path)
    with standby.follow(environment=clock.environment) as follower:
        for number, shift in enumerate((90, -300, 3 * YEAR, -2 * YEAR, 0)):
            clock.shift(shift)
            client.upload_wheel("root/dev", "jumping", f"1.{number}")
            wait_for(standby, primary.serial())
            assert standby.status("--offline")["lag_seconds"] >= 0
            stamp = datetime.fromisoformat(last_applied(standby)).timestamp()
            assert abs(stamp - time.time() - shift) < ARRIVE_SECONDS, "the clock was not set at all"
        stop_promptly(follower)
    assert standby.status()["state"] == "current"
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


def last_applied(standby: Standby) -> str:
    """Return when the last serial was committed, as the standby's machine saw it."""
    query = "SELECT committed_at FROM replisync_timeline ORDER BY serial DESC LIMIT 1"
    with closing(connect(standby.serverdir)) as database:
        [(stamp,)] = database.execute(query).fetchall()
    return str(stamp)


def test_a_primary_that_stays_away_ends_a_bounded_follow(standby: Standby, proxy: Proxy) -> None:
    """With --timeout the patience has an end, and the exit code says who was at fault."""
    with standby.follow("--timeout", 1) as follower:
        proxy.refuse()
        said = follower.end(3)
    assert "run the command again" in said.message
    assert standby.status("--offline")["last_run"]["outcome"] == "failed"


# Ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_long_poll(
    client: Client, standby: Standby, proxy: Proxy, number: signal.Signals
) -> None:
    """While nothing happens a signal ends it at once, with 0; `status` says how, and from where to where."""
    first = standby.serial
    with standby.follow() as follower:
        client.upload_wheel("root/dev", "before-the-end", "1.0", number.name.encode())
        wait_for(standby, first + 1)
        seen = polls(proxy)
        wait_until(lambda: polls(proxy) > seen or polls(proxy) > 1, ARRIVE_SECONDS, "it polls again")
        assert standby.status()["running"]
        end_promptly(follower, number)
    found = standby.status()
    run = found["last_run"]
    assert (run["command"], run["outcome"], run["from_serial"]) == ("follow", "stopped", first)
    assert run["to_serial"] == standby.serial > first
    assert run["files"] == 1
    assert not found["running"]


def test_a_signal_while_files_arrive_leaves_a_whole_standby(
    primary: Server, client: Client, standby: Standby, proxy: Proxy
) -> None:
    """A download that stands still is left, its serial stays away, and the next run gets both."""
    before = standby.serial
    stalled = proxy.add(Fault(path=FILES, stall_after=10))
    with standby.follow() as follower:
        client.upload_wheel("root/dev", "half", "1.0")
        wait_until(lambda: stalled.done, ARRIVE_SECONDS, "the file is asked for")
        stop_promptly(follower)
    assert standby.serial == before
    assert assert_promotable(standby.serverdir, primary.serverdir) == before
    proxy.clear()
    standby.catchup()
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


def test_a_second_signal_ends_it_without_more_ado(
    primary: Server, client: Client, standby: Standby, proxy: Proxy
) -> None:
    """Who asks twice does not wait: the process is gone, and nothing is lost by it."""
    stalled = proxy.add(Fault(path=FILES, stall_after=10))
    with standby.follow() as follower:
        client.upload_wheel("root/dev", "twice", "1.0")
        wait_until(lambda: stalled.done, ARRIVE_SECONDS, "the file is asked for")
        os.kill(follower.pid, signal.SIGTERM)
        wait_until(lambda: not handles(follower, signal.SIGTERM), PROMPT_SECONDS, "the first is handled")
        assert follower.process.poll() is None, "it ended before the handler was taken back"
        follower.process.send_signal(signal.SIGTERM)
        # It may end by the first one in this very moment.
        assert follower.process.wait(PROMPT_SECONDS) in (-signal.SIGTERM, 0)
    proxy.clear()
    standby.catchup()
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


def handles(follower: Background, number: signal.Signals) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{follower.pid}/status").read_text()
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) & 1 << number - 1)


# Files that cannot be had


def test_a_missing_private_file_holds_its_serial_until_the_operator_lets_it_go(
    primary: Server, client: Client, standby: Standby
) -> None:
    """`status` and `faults list` name it; after `faults skip` the serial, and those behind it, arrive."""
    before = standby.serial
    relpath = client.upload_wheel("root/dev", "lost", "1.0")
    lost = primary.serial()
    file = primary.serverdir / "+files" / relpath
    content = file.read_bytes()
    file.unlink()
    other = client.upload_wheel("root/dev", "behind", "1.0")
    with standby.follow() as follower:
        wait_until(standby.faults, ARRIVE_SECONDS, "the fault is known")
        fault = standby.faults()[relpath]
        assert (fault["kind"], fault["serial"]) == ("held", lost)
        assert "404" in fault["reason"]
        found = standby.status()
        assert (found["state"], found["faults"], found["serial"]) == ("behind", 1, lost - 1)
        assert found["lag_serials"] == primary.serial() - lost + 1
        assert lost - 1 >= before
        said = run_here("faults", "skip", *standby.own, "root/dev/+f/000/0000000000000/no-such.whl", code=2)
        assert "not among the faults" in said.message
        run_here("faults", "skip", *standby.own, relpath)
        wait_for(standby, primary.serial())
        stop_promptly(follower)
    assert (standby.serverdir / "+files" / other).is_file()
    assert standby.faults()[relpath]["kind"] == "skipped"
    # It is not forgotten: promotion names the loss, and the file comes once the primary has it again.
    assert standby.status()["files_missing"] == 1
    assert standby.promote(code=9)["code"] == 9
    file.write_bytes(content)
    run_here("faults", "retry", *standby.own)
    standby.catchup()
    assert standby.faults() == {}
    assert_replicated(primary, standby.serverdir, export=False, fsck=False)


def test_a_change_does_not_wait_for_retries(
    primary: Server, client: Client, standby: Standby, proxy: Proxy, upstream: Upstream
) -> None:
    """An upstream that accepts requests and never answers holds nobody up but its own files."""
    name, _ = upstream.add_wheel("hanging", "1.0", b"hanging")
    relpath = client.links("root/mirror", "hanging")[name]
    client.fetch(relpath)
    wait_until(
        lambda: relpath in read_history(primary.serverdir).live_files, ARRIVE_SECONDS, "the primary keeps it"
    )
    with proxy.fault(path="/root/mirror/", status=404, headers=primary_headers(primary)):
        standby.catchup()
    assert standby.faults()[relpath]["kind"] == "mirror"
    run_here("faults", "retry", *standby.own)
    hanging = proxy.add(Fault(path="/root/mirror/", delay_seconds=3600))
    with standby.follow() as follower:
        follower.wait_for_log("retrying files")
        follower.wait_for(lambda: hanging.matched, "it is asked for")
        client.upload_wheel("root/dev", "meanwhile", "1.0")
        wait_for(standby, primary.serial())
        assert standby.status()["files_missing"] == 1
        proxy.clear()
        proxy.drop_connections()
        run_here("faults", "retry", *standby.own)
        stop_promptly(follower)
    standby.catchup()
    assert standby.faults() == {}
    assert_files(primary.serverdir, standby.serverdir)


def primary_headers(primary: Server) -> dict[str, str | None]:
    """Return the headers by which an answer is the primary's own."""
    return {name: value for name, value in primary.headers().items() if name.lower().startswith("x-devpi")}


def test_faults_are_named_by_paths_patterns_or_all_together(
    primary: Server, client: Client, standby: Standby
) -> None:
    """A literal name first: `[` is legal in one. A name that matches nothing changes nothing."""
    relpaths = [client.upload_wheel("root/dev", name, "1.0") for name in ("loss1", "loss2", "loss3")]
    for relpath in relpaths:
        (primary.serverdir / "+files" / relpath).unlink()
    standby.catchup("--patience", 1, code=3)
    text = run_here("faults", "list", *standby.own).stdout
    assert "held: 3 files hold the serial back: restore them on the primary" in text
    assert f"`replisync faults skip --all --serverdir {standby.serverdir}`" in text
    for names in ((), ("--all", relpaths[0]), (relpaths[0], "root/dev/*nothing*")):
        run_here("faults", "skip", *standby.own, *names, code=2)
    assert [fault["kind"] for fault in standby.faults().values()] == ["held"] * 3
    assert run_here("faults", "skip", *standby.own, "root/dev/*loss[12]*").stdout.startswith("2 files")
    assert run_here("faults", "skip", *standby.own, "--all").stdout.startswith("1 files")
    standby.catchup()
    assert run_here("faults", "clear", *standby.own, relpaths[0]).stdout.startswith("1 faults")
    assert len(standby.faults()) == 2
    assert run_here("faults", "retry", *standby.own, relpaths[1], relpaths[2]).stdout.startswith("2 files")
    run_here("faults", "clear", *standby.own, "--all")
    assert run_here("faults", "list", *standby.own).stdout == "no faults\n"
    for name in ("loss1", "loss2", "loss3"):
        client.delete_project("root/dev", name)


def test_a_mirror_file_that_upstream_no_longer_has_holds_nothing_back(
    primary: Server, client: Client, standby: Standby, upstream: Upstream
) -> None:
    """It becomes a fault and the serial goes on; `faults retry` brings it once upstream has it again."""
    name, content = upstream.add_wheel("withdrawn", "1.0", b"withdrawn")
    relpath = client.links("root/mirror", "withdrawn")[name]
    client.fetch(relpath)
    file = primary.serverdir / "+files" / relpath
    wait_until(
        # It gets its name after its serial is committed.
        lambda: file.is_file() and relpath in read_history(primary.serverdir).live_files,
        ARRIVE_SECONDS,
        "the primary keeps the file",
    )
    file.unlink()
    upstream.remove_file("withdrawn", name)
    with standby.follow() as follower:
        wait_for(standby, primary.serial())
        stop_promptly(follower)
    fault = standby.faults()[relpath]
    assert fault["kind"] == "mirror"
    assert fault["next_try"] is not None
    found = standby.status()
    assert (found["state"], found["faults"], found["files_missing"]) == ("current", 1, 1)
    standby.catchup()
    assert standby.faults()[relpath]["tries"] == fault["tries"], "asked for again before its time"
    upstream.add_file("withdrawn", name, content)
    run_here("faults", "retry", *standby.own)
    standby.catchup()
    assert standby.faults() == {}
    assert (standby.serverdir / "+files" / relpath).read_bytes() == build_wheel(
        "withdrawn", "1.0", b"withdrawn"
    )[1]
    assert_files(primary.serverdir, standby.serverdir)
