"""Answers of the changelog that break off, stand still or never come: nothing half is used, then a retry."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from replisync.cli.logs import make_logger
from replisync.cli.progress import Lines
from replisync.devpi.tokens import KeyCost
from replisync.errors import PrimaryUnreachable
from replisync.primary.access import Access
from replisync.replication.context import Context
from replisync.replication.pipeline import Pipeline
from replisync.session.session import Session
from replisync.session.settings import Settings
from replisync.standby.serverdir import Serverdir
from replisync.system.stop import Stop
from tests.faults.conftest import World
from tests.support.history import read_history, serialize, strip_renames
from tests.support.oracle import assert_equal_history, assert_replicated
from tests.support.proxy import Fault
from tests.support.runs import run_here
from tests.support.snapshot import assert_promotable, last_serial

CHANGES = r"/\+changelog/\d+-"
SERIAL_BYTES = 6  # of a serial in the stream, its end mark included
SEED = 20_261_122


@contextmanager
def opened(world: World, target: Path, *, files: bool = True) -> Iterator[Pipeline]:
    """Hold a standby that is connected over the proxy, to make single steps without patience."""
    skipped = frozenset() if files else frozenset({"all"})
    access = Access(secretfile=world.secretfile, cost=KeyCost(64, 1, 1))
    log = make_logger("error", "json")
    context = Context(Stop(), log, Lines(log))
    settings = Settings(access, skip_indexes=skipped)
    with Session.open(Serverdir(target), settings, context) as session, session.primary() as primary:
        yield session.following(primary)


def rows(serverdir: Path) -> list[tuple[int, bytes]]:
    """Return the changelog."""
    with closing(sqlite3.connect(serverdir / ".sqlite")) as database:
        return database.execute("SELECT serial, data FROM changelog ORDER BY serial").fetchall()


@pytest.fixture
def entry_sizes(world: World) -> list[int]:
    """How many bytes of the stream each entry takes that the standby lacks."""
    history = read_history(world.primary.serverdir)
    wanted = range(world.early_serial + 1, world.serial + 1)
    return [len(serialize(serial)) + len(history.changelog[serial]) for serial in wanted]


def cuts(sizes: list[int]) -> list[int]:
    """Return offsets at which a stream is to be cut: in every kind of place, and anywhere."""
    ends = list(accumulate(sizes))
    first_entry = range(SERIAL_BYTES + 8)  # the serial, the container, the first key's opcode and length
    around = (end + by for end in ends[:-1:2] for by in (-1, 0, 1, SERIAL_BYTES))
    last = (ends[-1] - by for by in (1, 2, 11, 12))
    anywhere = random.Random(SEED).sample(range(ends[-1]), 6)  # noqa: S311 - not for secrets
    return sorted({*first_entry, *around, *last, *anywhere})


def test_a_stream_that_is_cut_at_any_byte(world: World, entry_sizes: list[int]) -> None:
    """Exactly the complete entries are applied, and the next try goes on behind them."""
    expected = [
        (serial, strip_renames(data))
        for serial, data in sorted(read_history(world.primary.serverdir).changelog.items())
    ]
    ends = list(accumulate(entry_sizes))
    for offset in cuts(entry_sizes):
        target = world.standby(f"cut at {offset}")
        complete = world.early_serial + sum(end <= offset for end in ends)
        with opened(world, target, files=False) as work:
            with world.proxy.fault(path=CHANGES, cut_after=offset), pytest.raises(PrimaryUnreachable):
                work.step(poll=False)
            assert rows(target) == expected[: complete + 1], f"cut at {offset}"
            work.step(poll=False)
            assert rows(target) == expected, f"after the cut at {offset}"
    assert_equal_history(world.primary.serverdir, target)


def test_a_stream_that_is_cut_inside_its_framing(world: World) -> None:
    """An end inside a chunk's length, or inside a chunk, is no end."""
    target = world.standby()
    # A chunk is a length in hex, CR LF, its bytes, CR LF.
    for offset in (0, 1, 2, 4, 5, 6, 7, 20):
        with opened(world, target) as work:
            with world.proxy.fault(path=CHANGES, cut_framed_after=offset), pytest.raises(PrimaryUnreachable):
                work.step(poll=False)
            assert last_serial(target) == world.early_serial
    with opened(world, target) as work:
        work.step(poll=False)
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_a_stream_whose_last_chunk_does_not_come(world: World, entry_sizes: list[int]) -> None:
    """All entries are complete and applied, but only the end that HTTP marks is the end of the answer."""
    target = world.standby()
    with opened(world, target) as work:
        with world.proxy.fault(path=CHANGES, cut_after=sum(entry_sizes)), pytest.raises(PrimaryUnreachable):
            work.step(poll=False)
        assert last_serial(target) == world.serial


def test_a_stream_that_ends_too_early_and_properly(world: World, entry_sizes: list[int]) -> None:
    """An end inside an entry is none, whatever HTTP says; one behind an entry is made up for."""
    first, second = entry_sizes[:2]
    for offset in (3, first + 3, first + second - 1):
        target = world.standby(f"ended at {offset}")
        with opened(world, target, files=False) as work:
            ended = world.proxy.fault(path=CHANGES, end_after=offset)
            with ended, pytest.raises(PrimaryUnreachable, match="in the middle of an entry"):
                work.step(poll=False)
            assert last_serial(target) == world.early_serial + (offset > first)
    target = world.standby()
    world.proxy.add(Fault(path=CHANGES, end_after=first + second, times=1))
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


@pytest.mark.parametrize("protocol", ["batched", "single"])
def test_older_protocols_that_are_cut(world: World, protocol: str) -> None:
    """A batch, or an entry, that ends too early is not used."""
    target = world.standby()
    if protocol == "single":
        world.proxy.look_like_before_blocks()
        first = rf"/\+changelog/{world.early_serial + 1}(\?|$)"
    else:
        first = CHANGES
    damages = [{"cut_after": offset} for offset in (0, 1, 100, 1_000)]
    damages += [{"content_length_delta": 1}, {"content_length_delta": -1}]
    for damage in damages:
        cut = world.proxy.fault(path=first, request_headers={"Accept": "*/*"}, **damage)
        with opened(world, target) as work, cut, pytest.raises(PrimaryUnreachable):
            work.step(poll=False)
        assert last_serial(target) == world.early_serial, damage
    run_here("catchup", *world.options(target))
    assert_replicated(world.primary, target, export=False, fsck=False)


@pytest.mark.parametrize(
    "effects",
    [
        {"status": 500},
        {"status": 502},
        {"status": 503},
        {"status": 504},
        {"reset": True},
        {"disconnect": True},
        {"reset_after": 1_000},
        {"cut_after": 10_000},
        {"delay_seconds": 10},
    ],
    ids=str,
)
def test_a_failure_that_passes_is_retried(world: World, effects: dict[str, int]) -> None:
    """What a restart of the primary, or of a proxy before it, shows us costs time and nothing else."""
    target = world.standby()
    fault = world.proxy.add(Fault(path=CHANGES, times=1, **effects))  # type: ignore[arg-type]
    # Far from both what a busy machine takes for an answer and the delay, which alone it is for.
    done = run_here("catchup", *world.options(target, "--request-timeout", 3))
    assert fault.done == 1
    # Where a connection that was used before ends without an answer, the request is sent again at once.
    tries = 0 if effects.keys() & {"reset", "disconnect"} else 1
    assert [line["event"] for line in done.logs].count("retrying") == tries
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_a_slow_line(world: World, entry_sizes: list[int]) -> None:
    """A first byte that takes its time, and bytes that drip, are no failure, in changelog and files."""
    target = world.standby()
    timeout, delay, rate = 3, 1.0, 22_000
    files = read_history(world.primary.serverdir).live_files
    largest = max(
        (world.primary.serverdir / "+files" / path).stat().st_size for path in files if "late" in path
    )
    # Never silent for so long, but longer in all.
    assert delay + sum(entry_sizes) / rate > timeout
    assert delay + largest / rate > timeout
    for path in (CHANGES, "/alice/"):
        world.proxy.add(Fault(path=path, delay_seconds=delay, bytes_per_second=rate))
    done = run_here("catchup", *world.options(target, "--request-timeout", timeout))
    assert [line for line in done.logs if line["event"] == "retrying"] == []
    assert_replicated(world.primary, target, export=False, fsck=False)


@pytest.mark.parametrize("command", ["clone", "catchup", "follow"])
def test_a_primary_that_does_not_come_back(world: World, command: str) -> None:
    """Refused connections are borne until patience ends: exit 3, and the target as it was."""
    target = world.folder / "new" if command == "clone" else world.standby()
    options = world.new(target) if command == "clone" else world.options(target)
    patience = ("--timeout", 2) if command == "follow" else ("--patience", 2)
    world.proxy.refuse()
    said = run_here(command, *options, *patience, code=3)
    assert "check that the primary runs" in said.message.lower()
    if command == "clone":
        assert not target.exists()
    else:
        assert assert_promotable(target, world.primary.serverdir) == world.early_serial


@pytest.mark.parametrize("status", [500, 503])
def test_a_primary_that_keeps_failing(world: World, status: int) -> None:
    """The last answer is what the message names."""
    target = world.standby()
    with world.proxy.fault(path=r"/\+changelog", status=status):
        said = run_here("catchup", *world.options(target, "--patience", 1), code=3)
    assert f"it answered {status}" in said.message
    assert assert_promotable(target, world.primary.serverdir) == world.early_serial


def test_a_stream_that_stands_still(world: World) -> None:
    """Silence ends a try; what had arrived is kept, and the next try goes on behind it."""
    target = world.standby()
    silent = world.proxy.add(Fault(path=CHANGES, times=1, stall_after=10_000))
    done = run_here("catchup", *world.options(target, "--request-timeout", 1))
    assert silent.done == 1
    assert "no answer in time" in done.logs[0]["error"]
    assert_replicated(world.primary, target, export=False, fsck=False)


def test_a_primary_that_is_frozen(world: World) -> None:
    """A server that accepts connections and says nothing is given up when patience ends."""
    target = world.standby()
    world.primary.pause()
    try:
        said = run_here("catchup", *world.options(target, "--request-timeout", 1, "--patience", 1), code=3)
    finally:
        world.primary.resume()
    assert "no answer in time" in said.message
    assert assert_promotable(target, world.primary.serverdir) == world.early_serial


def test_a_stream_that_always_breaks_and_always_gets_on(world: World, entry_sizes: list[int]) -> None:
    """Patience is for tries without any success: a clone over a bad line takes long, and ends well."""
    target = world.folder / "new"
    with world.proxy.fault(path=CHANGES, cut_after=max(entry_sizes) + 1) as fault:
        run_here("clone", *world.new(target, "--patience", 3))
    assert fault.done > 4
    assert_replicated(world.primary, target, export=False, fsck=False)
