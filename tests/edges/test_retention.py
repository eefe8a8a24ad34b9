"""Retained files go when their time was lived through, whatever the system clock says meanwhile."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replisync.replication.settle import expire_retained
from replisync.standby.database.oddrows import mend, odd_rows
from replisync.standby.database.store import Store
from replisync.standby.files.disk import DiskFiles
from replisync.system import clock
from replisync.system.clock import Moment
from tests.edges.conftest import Database, SqliteDatabase

DAY, MINUTE = 86400.0, 60.0
START = datetime(2026, 11, 22, 11, 39, 23, tzinfo=UTC)
RETENTION_DAYS = 30.0


class Machine:
    """A machine whose system clock may be set, and which may be started anew; and the standby on it."""

    def __init__(self, store: Store, folder: Path, *, tells: bool = True) -> None:
        self._store = store
        self.retained = folder / "retained"
        for name in ("files", "tmp", "retained"):
            (folder / name).mkdir()
        self._files = DiskFiles(folder / "files", folder / "tmp", self.retained)
        self._tells = tells
        self._boots = 1
        self._up = 100.0
        self._wall = START

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self._up += seconds
        self._wall += timedelta(seconds=seconds)

    def set_clock(self, days: float) -> None:
        """Set the system clock forwards, or backwards."""
        self._wall += timedelta(days=days)

    def restart(self) -> None:
        """Start the machine anew, which takes 20 seconds."""
        self.passes(20)
        self._boots += 1
        self._up = 20.0

    def put_aside(self, name: str) -> None:
        """Put a file aside now."""
        (self.retained / name).write_bytes(b"content")
        row = {"stored_as": name, "relpath": f"u/dev/{name}", "serial": 1}
        self._store.settle([], [row | {"retained_at": clock.stamp(self._wall)}])

    def look(self, days: float = RETENTION_DAYS) -> set[str]:
        """Remove what is to go; return what is left, which is the same on disk and in the table."""
        boot = str(self._boots) if self._tells else None
        moment = Moment(clock.stamp(self._wall), boot, self._up if self._tells else 0.0)
        expire_retained(self._store, self._files, days, moment)
        left = {path.name for path in self.retained.iterdir()}
        assert {row.stored_as for row in self._store.retained_of(f"u/dev/{name}" for name in "abc")} == left
        return left


@pytest.fixture
def machine(store: Store, folder: Path) -> Machine:
    """A machine with a standby that looked once."""
    one = Machine(store, folder)
    one.look()
    return one


def test_files_go_when_their_time_is_over_and_not_before(machine: Machine) -> None:
    machine.put_aside("a")
    assert machine.look() == {"a"}
    machine.passes(10 * DAY)
    machine.put_aside("b")
    assert machine.look() == {"a", "b"}
    machine.passes(20 * DAY - 1)
    assert machine.look() == {"a", "b"}
    machine.passes(1)
    assert machine.look() == {"b"}
    machine.passes(10 * DAY)
    assert machine.look() == set()


def test_what_is_put_aside_long_after_the_last_look_is_counted_from_the_next(machine: Machine) -> None:
    machine.passes(400 * DAY)
    machine.put_aside("a")
    assert machine.look() == {"a"}
    machine.passes(RETENTION_DAYS * DAY)
    assert machine.look() == set()


@pytest.mark.parametrize("days", [400.0, -400.0, 30000.0])
def test_a_clock_that_jumps_removes_nothing_and_keeps_nothing_longer(machine: Machine, days: float) -> None:
    machine.put_aside("a")
    machine.look()
    machine.passes(10 * DAY)
    machine.set_clock(days)
    machine.put_aside("b")
    assert machine.look() == {"a", "b"}
    machine.set_clock(-days)
    machine.put_aside("c")
    assert machine.look() == {"a", "b", "c"}
    machine.passes(20 * DAY)
    assert machine.look() == {"b", "c"}
    machine.passes(10 * DAY)
    assert machine.look() == set()


@pytest.mark.parametrize("days", [400.0, -400.0])
def test_a_clock_that_comes_up_wrong_costs_a_day_at_most(machine: Machine, days: float) -> None:
    machine.put_aside("a")
    machine.look()
    machine.passes(28 * DAY)
    machine.look()
    machine.restart()
    machine.set_clock(days)
    assert machine.look() == {"a"}
    machine.set_clock(-days)
    machine.passes(DAY - MINUTE)
    assert machine.look() == {"a"}
    machine.passes(DAY + MINUTE)
    assert machine.look() == set()


@pytest.mark.parametrize(("every", "runs"), [(1.0, 30), (0.25, 120), (7.0, 30)])
def test_files_go_in_the_end_where_the_machine_is_started_before_each_look(
    machine: Machine, every: float, runs: int
) -> None:
    machine.put_aside("a")
    machine.look()
    for _ in range(runs - 1):
        machine.passes(every * DAY - 20)
        machine.restart()
        assert machine.look() == {"a"}
    machine.passes(every * DAY - 20)
    machine.restart()
    assert machine.look() == set()


def test_without_a_machine_that_tells_each_jump_costs_a_day_at_most(store: Store, tmp_path: Path) -> None:
    machine = Machine(store, tmp_path, tells=False)
    machine.put_aside("a")
    machine.look()
    machine.set_clock(400)
    assert machine.look() == {"a"}
    for _ in range(28):
        machine.passes(DAY)
        assert machine.look() == {"a"}
    machine.passes(DAY)
    assert machine.look() == set()


def test_a_machine_that_seems_to_run_backwards_is_another_one(machine: Machine) -> None:
    """So it is after a virtual machine was taken back to an earlier state."""
    machine.passes(50 * DAY)
    machine.put_aside("a")
    machine.look()
    machine.passes(-49 * DAY)
    machine.set_clock(400)
    assert machine.look() == {"a"}
    machine.passes(29 * DAY)
    assert machine.look() == set()


def test_a_retention_of_none_removes_all_at_once(machine: Machine) -> None:
    machine.put_aside("a")
    assert machine.look(0) == set()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM replisync_lived",
        "UPDATE replisync_lived SET wall_at = '0000-13-99T'",
        "UPDATE replisync_lived SET boottime = -1e300",
        "UPDATE replisync_lived SET lived = -5",
    ],
)
def test_a_record_that_is_lost_or_unreadable_begins_anew(
    machine: Machine, database: Database, damage: str
) -> None:
    machine.put_aside("a")
    machine.look()
    machine.passes(29 * DAY)
    machine.look()
    database.write(damage)
    machine.passes(29 * DAY)
    assert machine.look() == {"a"}
    machine.passes(RETENTION_DAYS * DAY - 1)
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


@pytest.mark.parametrize("age", ["NULL", "1e300"])
def test_an_age_that_is_lost_begins_anew(machine: Machine, database: Database, age: str) -> None:
    machine.put_aside("a")
    machine.look()
    machine.passes(40 * DAY)
    database.write(f"UPDATE replisync_retained SET lived_at = {age}")  # noqa: S608
    assert machine.look() == {"a"}
    machine.passes(RETENTION_DAYS * DAY)
    assert machine.look() == set()


def test_an_age_that_is_no_number_is_mended_and_the_file_stays(folder: Path) -> None:
    database = SqliteDatabase(folder / ".sqlite")
    with database.open() as store:
        machine = Machine(store, folder)
        machine.put_aside("a")
        database.write("UPDATE replisync_retained SET lived_at = 'long'")
        rows = odd_rows(store)
        assert [(row.column, row.found) for row in rows] == [("lived_at", "long")]
        mend(store, clock.stamp(START))
        assert odd_rows(store) == []
        assert machine.look() == {"a"}


def test_the_real_clocks_are_read() -> None:
    before, now = clock.moment(), clock.moment()
    assert before.boot == now.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert before.boottime <= now.boottime <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert clock.seconds_since(now.wall) < MINUTE
