"""A repair that dies in any call is finished by the next one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crashes.points import Point, calls_of, every_point, parameters
from tests.edges.conftest import PostgresDatabase
from tests.edges.scenario import A, B, ChainedPrimary
from tests.edges.standbys import Standby, copied, made
from tests.edges.verify.damages import DAMAGES, contents
from tests.fakes import Died, Trap
from tests.support.postgres import Postgres

TOGETHER = (
    "a flipped byte in a file",
    "an extra file",
    "a stale temporary file of ours",
    "a key at an older serial",
    "an entry missing in the middle",
    "an entry missing at the end",
    "a wrong back serial",
    "the nodeinfo of another server",
    "events that are ahead",
    "a file that is said to be wanted",
)


def damage_together(standby: Standby) -> None:
    """Damage a standby in many ways."""
    index = "an index of PostgreSQL" if standby.in_postgres else "an index"
    for name in (*TOGETHER, f"{index} that let a key in twice"):
        DAMAGES[name].do(standby)
    standby.remove_file(A)
    standby.database.write("DELETE FROM replisync_files WHERE relpath = ?", A)


def damage_a_file(standby: Standby) -> None:
    """Damage a file that the primary does not give."""
    DAMAGES["a flipped byte in a file"].do(standby)
    standby.server.files[B] = 500


DAMAGED: dict[str, Callable[[Standby], None]] = {"all": damage_together, "file": damage_a_file}


def calls(name: str) -> list[str]:
    """Return the calls of a repair in SQLite that nothing disturbs."""

    def repair(root: Path, trap: Trap) -> None:
        standby = made(root)
        DAMAGED[name](standby)
        standby.repair(trap=trap)

    return calls_of(repair)


CALLS = {name: calls(name) for name in DAMAGED}


def deaths(calls: list[str]) -> Iterator[tuple[Point, str]]:
    """Yield the points in which a process dies."""
    return ((point, words) for point, words in every_point(calls, reads=False) if point.dies)


@dataclass
class Damaged:
    """A standby before and after it was damaged; copy it, change nothing in it."""

    before: dict[str, Any]
    standby: Standby


def damaged(folder: Path, damage: Callable[[Standby], object]) -> Damaged:
    """Return a standby that was damaged."""
    standby = made(folder / "standby")
    before = contents(standby)
    damage(standby)
    return Damaged(before, standby)


@pytest.fixture(scope="session")
def all_damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """A standby that is damaged in many ways."""
    return damaged(tmp_path_factory.mktemp("damaged"), damage_together)


@pytest.fixture(scope="session")
def file_damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """A standby with a damaged file."""
    return damaged(tmp_path_factory.mktemp("damaged"), damage_a_file)


@parameters({"all": deaths(CALLS["all"])})
def test_a_repair_that_dies_in_any_call_is_finished_by_the_next_one(
    name: str, point: Point, all_damaged: Damaged, folder: Path
) -> None:
    standby = copied(all_damaged.standby, folder / name)
    with pytest.raises(Died):
        standby.repair(trap=point.trap())
    assert standby.repair().findings == []
    assert contents(standby) == all_damaged.before


@parameters({"file": deaths(CALLS["file"])})
def test_a_repair_that_dies_while_a_file_cannot_be_had_leaves_no_damaged_one_to_be_served(
    name: str, point: Point, file_damaged: Damaged, folder: Path
) -> None:
    standby = copied(file_damaged.standby, folder / name)
    standby.server.files[B] = 500
    with pytest.raises(Died):
        standby.repair(trap=point.trap())
    standby.repair()
    assert standby.read_file(B) is None
    names = standby.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", B)
    kept = [(standby.root / ".replisync/retained" / name).read_bytes() for [name] in names]
    assert kept == [file_damaged.standby.read_file(B)]
    assert standby.look().known["files_missing"] == 2


@pytest.fixture(scope="module")
def in_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Standby:
    """A standby in PostgreSQL that was repaired before; each test leaves it as it was."""
    root = tmp_path_factory.mktemp("postgres") / "standby"
    standby = Standby(root, PostgresDatabase(postgres.schema()), ChainedPrimary())
    standby.make()
    damage_together(standby)
    assert standby.repair().findings == []
    return standby


# One more than in SQLite makes the schema ready, another one renames what the repair before retained.
COMMITS = CALLS["all"].count("store.commit") + 2


@pytest.mark.parametrize("nth", range(COMMITS))
def test_a_repair_in_postgresql_that_dies_after_a_commit_is_finished_by_the_next_one(
    in_postgres: Standby, nth: int
) -> None:
    before = contents(in_postgres)
    damage_together(in_postgres)
    trap = Trap(("store.commit", nth), after=True)
    with pytest.raises(Died):
        in_postgres.repair(trap=trap)
    assert in_postgres.repair(trap=Trap()).findings == []
    assert contents(in_postgres) == before


def test_a_repair_in_postgresql_has_these_commits(in_postgres: Standby) -> None:
    damage_together(in_postgres)
    undisturbed = Trap()
    assert in_postgres.repair(trap=undisturbed).findings == []
    assert undisturbed.names.count("store.commit") == COMMITS
