"""Retained files go when a clock finds them over age, and a look at least a day later finds it so again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replisync.replication.settle import expire_retained
from replisync.standby.database.invalidrows import odd_rows, repair
from replisync.standby.database.store import Store
from replisync.standby.files.disk import DiskFiles
from replisync.system import clock
from tests.edges.conftest import Database, SqliteDatabase
from tests.fakes import Died, FailingFiles, Trap

START = datetime(2026, 11, 22, 11, 39, 23, tzinfo=UTC)
RETENTION_DAYS = 30.0
SECOND = 1 / 86400


class Machine:
    """A machine whose system clock may be set, and the standby on it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self.retained = folder / "retained"
        for name in ("files", "tmp", "retained"):
            (folder / name).mkdir()
        self._files = DiskFiles(folder / "files", folder / "tmp", self.retained)
        self._now = START

    def passes(self, days: float) -> None:
        """Let time pass, or set the clock: it is one and the same to us."""
        self._now += timedelta(days=days)

    def retain(self, name: str) -> None:
        """Put a file aside now."""
        (self.retained / name).write_bytes(b"content")
        row = {"stored_as": name, "relpath": f"u/dev/{name}", "serial": 1}
        self._store.settle([], [row | {"retained_at": clock.stamp(self._now)}])

    def die(self, days: float, trap: Trap) -> None:
        """Remove what is to go, and die where the trap is set."""
        files = FailingFiles(self._files, trap)
        with pytest.raises(Died):
            expire_retained(self._store, files, days, clock.stamp(self._now))

    def look(self, days: float = RETENTION_DAYS, *, at_once: bool = False) -> set[str]:
        """Remove what is to go; return what is left, which is the same on disk and in the table."""
        expire_retained(self._store, self._files, days, clock.stamp(self._now), at_once=at_once)
        left = {path.name for path in self.retained.iterdir()}
        assert {row.stored_as for row in self._store.retained_of(f"u/dev/{name}" for name in "abc")} == left
        return left


@pytest.fixture
def machine(store: Store, folder: Path) -> Machine:
    """A machine with a standby that looked once."""
    one = Machine(store, folder)
    one.look()
    return one


def test_files_go_a_day_after_they_are_found_over_age(machine: Machine) -> None:
    machine.retain("a")
    machine.passes(10)
    machine.retain("b")
    machine.passes(20 - SECOND)
    assert machine.look() == {"a", "b"}
    machine.passes(SECOND)
    assert machine.look() == {"a", "b"}
    machine.passes(1 - SECOND)
    assert machine.look() == {"a", "b"}
    machine.passes(SECOND)
    assert machine.look() == {"b"}
    machine.passes(100)
    assert machine.look() == {"b"}, "the first look that finds it over age"
    machine.passes(7)
    assert machine.look() == set()


@pytest.mark.parametrize("days", [30.0, 400.0, -400.0, 30000.0])
def test_a_clock_that_jumps_and_comes_back_removes_nothing_and_keeps_nothing_longer(
    machine: Machine, days: float
) -> None:
    machine.retain("a")
    machine.passes(10)
    machine.passes(days)
    for _ in range(3):
        assert machine.look() == {"a"}
        machine.passes(0.3)
    machine.passes(-days)
    assert machine.look() == {"a"}
    machine.passes(0.3)
    machine.passes(days)
    assert machine.look() == {"a"}, "the days before count no more"
    machine.passes(-days)
    assert machine.look() == {"a"}
    machine.passes(20)
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


def test_a_note_that_comes_from_the_future_is_made_again(machine: Machine) -> None:
    machine.retain("a")
    machine.passes(500)
    assert machine.look() == {"a"}
    machine.passes(-400)
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


def test_a_longer_retention_forgets_that_a_file_was_overdue(machine: Machine) -> None:
    machine.retain("a")
    machine.passes(RETENTION_DAYS)
    machine.look()
    machine.passes(2)
    assert machine.look(2 * RETENTION_DAYS) == {"a"}
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


@pytest.mark.parametrize(
    "after", [False, True], ids=["before the files are gone", "before the rows are gone"]
)
def test_a_removal_that_dies_is_finished_by_the_next_look(machine: Machine, after: bool) -> None:
    machine.retain("a")
    machine.passes(RETENTION_DAYS)
    machine.retain("b")
    machine.look()
    machine.passes(1)
    machine.die(RETENTION_DAYS, Trap(("files.drop_retained", 0), after=after))
    assert {path.name for path in machine.retained.iterdir()} == ({"b"} if after else {"a", "b"})
    assert machine.look() == {"b"}


def test_a_file_that_was_put_aside_in_the_future_is_kept(machine: Machine) -> None:
    machine.passes(400)
    machine.retain("a")
    machine.passes(-400)
    assert machine.look(at_once=True) == {"a"}
    machine.passes(400 + RETENTION_DAYS)
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


@pytest.mark.parametrize("shift", [0.0, -400.0])
def test_a_retention_of_none_removes_all_at_once(machine: Machine, shift: float) -> None:
    machine.retain("a")
    machine.passes(shift)
    assert machine.look(0) == set()


def test_at_once_means_what_is_over_age_and_no_other(machine: Machine) -> None:
    machine.retain("a")
    machine.passes(2)
    machine.retain("b")
    assert machine.look(2, at_once=True) == {"b"}


@pytest.mark.parametrize("days", [1e9, float("inf"), float("nan")])
def test_a_retention_of_ages_keeps_all(machine: Machine, days: float) -> None:
    machine.retain("a")
    machine.passes(30000)
    assert machine.look(days, at_once=True) == {"a"}


def test_a_look_that_changes_nothing_writes_nothing(machine: Machine, database: Database) -> None:
    machine.retain("a")
    machine.passes(RETENTION_DAYS)
    machine.look()
    query = "SELECT overdue_at FROM replisync_retained"
    [(before,)] = database.read(query)
    machine.passes(0.5)
    machine.look()
    assert database.read(query) == [(before,)]


def test_a_note_that_is_lost_costs_a_day(machine: Machine, database: Database) -> None:
    machine.retain("a")
    machine.passes(RETENTION_DAYS)
    machine.look()
    machine.passes(1)
    database.write("UPDATE replisync_retained SET overdue_at = NULL")
    assert machine.look() == {"a"}
    machine.passes(1)
    assert machine.look() == set()


def test_a_note_that_is_no_time_is_mended_and_the_file_stays(folder: Path) -> None:
    database = SqliteDatabase(folder / ".sqlite")
    with database.open() as store:
        machine = Machine(store, folder)
        machine.retain("a")
        database.write("UPDATE replisync_retained SET overdue_at = 'long'")
        rows = odd_rows(store)
        assert [(row.column, row.found) for row in rows] == [("overdue_at", "long")]
        repair(store, clock.stamp(START))
        assert odd_rows(store) == []
        assert machine.look() == {"a"}
