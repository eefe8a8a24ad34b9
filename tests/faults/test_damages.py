"""Every damage is repaired, in both storages, and no entry of a history stands in the way in PostgreSQL."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.crashes.points import scratch
from tests.edges.conftest import PostgresDatabase
from tests.edges.scenario import ChainedPrimary
from tests.edges.standbys import Standby, copied, made
from tests.edges.test_hostile_entries import ANSWERS, EXAMPLES, HISTORIES, check
from tests.edges.verify.damages import DAMAGES, FOREIGN, contents
from tests.support.postgres import Postgres

MENDED = [name for name, one in DAMAGES.items() if one.storage != "postgres" and name != FOREIGN]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Standby:
    """A standby in SQLite; copy it, change nothing in it."""
    return made(tmp_path_factory.mktemp("model") / "standby")


@pytest.mark.parametrize("name", MENDED)
def test_a_damage_is_mended_and_the_standby_is_what_it_was(model: Standby, name: str) -> None:
    with scratch() as folder:
        standby = copied(model, folder / "standby")
        before = contents(standby)
        DAMAGES[name].do(standby)
        report = standby.repair()
        assert report.findings == []
        assert report.repairs != []
        assert standby.look().findings == []
        assert contents(standby) == before


IN_POSTGRES = (
    "a flipped byte in a file",
    "a truncated file",
    "a missing file",
    "an extra file",
    "a file that is to be dropped",
    "a file with another size in its row",
    "a file without a size in the ledger",
    "a file that is said to be wanted",
    "a missing file that is said to be what nobody can have",
    "a time that is an empty text",
    "retained files that are gone",
    "the key of a file that is gone",
    "an emptied entry",
    "an entry missing in the middle",
    "an entry missing at the end",
    "a wrong back serial",
    "a sequence that is behind",
    "a sequence that is ahead",
    "no index of devpi-server's",
    "a file that the ledger does not have",
    "an entry at a negative serial",
    "a commit whose time is none",
    "a serial of the seed that cannot be",
    "a trigger of somebody's in PostgreSQL",
    "a path of a move that leads out of the folder",
    "a staged file in another folder",
    "a commit that never was",
    "no ledger",
    "no changelog",
    "an index of PostgreSQL that lacks a row",
    "an index of PostgreSQL that let a key in twice",
    "an index of PostgreSQL in another order",
)


def test_one_damage_after_the_other_is_mended_in_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    standby = Standby(tmp_path / "standby", PostgresDatabase(postgres.schema()), ChainedPrimary())
    standby.make()
    before = contents(standby)
    for name in IN_POSTGRES:
        damage = DAMAGES[name]
        damage.do(standby)
        report = standby.repair()
        assert {one.kind for one in report.repairs} >= damage.found, name
        assert report.findings == [], name
        assert contents(standby) == before, name
    assert standby.look().findings == []


@EXAMPLES
@given(history=HISTORIES, answer=ANSWERS)
def test_hostile_entries_are_stored_exactly_and_stand_in_nobodys_way(
    postgres: Postgres, history: list[dict[str, Any]], answer: bytes | int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder, "below", "standby"), PostgresDatabase(postgres.schema()), history, answer)
