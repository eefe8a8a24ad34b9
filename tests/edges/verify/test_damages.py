"""A verification finds every damage at the level that promises it."""

import pytest

from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import A, B
from tests.edges.standbys import Standby
from tests.edges.verify.damages import DAMAGES, EXTRA, found, write_entry
from tests.support.runs import run_here


@pytest.mark.parametrize("level", [Level.QUICK, Level.FILES, Level.FULL])
def test_nothing_is_found_in_a_standby_that_is_right(standby: Standby, level: Level) -> None:
    assert standby.look(level).findings == []


# A standby in PostgreSQL takes a second to make.
IN_BOTH = (
    "a flipped byte in a file",
    "a missing file",
    "an extra file",
    "the key of a file that is gone",
    "an entry at a negative serial",
)


@pytest.mark.parametrize(
    ("database", "name"),
    [("sqlite", name) for name, one in DAMAGES.items() if one.storage != "postgres"]
    + [("postgres", name) for name, one in DAMAGES.items() if one.storage == "postgres" or name in IN_BOTH],
    indirect=["database"],
)
def test_a_damage_is_found_at_the_level_that_promises_it(standby: Standby, name: str) -> None:
    damage = DAMAGES[name]
    damage.do(standby)
    for level in (Level.QUICK, Level.FILES, Level.FULL):
        if level < damage.level:
            assert found(standby, level) == set()
    expected = damage.found if standby.in_postgres else damage.found - {kinds.SEQUENCE}
    assert found(standby, damage.level) >= expected
    if damage.level < Level.FULL:
        assert found(standby, Level.FULL) >= expected


def test_what_is_found_obeys_no_terminal(one: Standby) -> None:
    one.write_file("u/dev/+f/\x1b[31m", b"x")
    said = run_here("verify", "--serverdir", one.root, "--level", "full", code=8).stdout
    assert "\\x1b[31m" in said
    assert "\x1b" not in said


def test_without_the_primary_files_and_entries_stay_as_they_are_and_the_rest_is_mended(one: Standby) -> None:
    one.remove_file(B)
    one.write_file(EXTRA, b"extra")
    write_entry(one, 1, b"")
    one.database.write("DELETE FROM kv WHERE key = ?", A)
    report = one.repair(asks=False)
    assert {each.kind for each in report.repairs} == {kinds.SUPERFLUOUS_FILE, kinds.KEY, kinds.LEDGER}
    assert {each.kind for each in report.findings} == {kinds.MISSING_FILE, kinds.DAMAGED_ENTRY}
    assert all("--replica-keyfile" in each.remedy for each in report.findings)
    again = one.look()
    assert {each.kind for each in again.findings} == {kinds.MISSING_FILE, kinds.DAMAGED_ENTRY}
    assert one.repair().findings == []
