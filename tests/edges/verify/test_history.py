"""What is wrong with a history, its keys and what is remembered of it is told apart from what is right."""

from contextlib import closing

import pytest

from replisync.changelog.witness import SIZE
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import B, drop
from tests.edges.standbys import Standby
from tests.edges.test_rewind import Standby as Rewindable
from tests.edges.verify.damages import LAST, alter, contents, edited, without_witnesses
from tests.fakes import Trap

# More than may lie between an entry and its neighbours, and than are asked for one by one.
GAP = 150
LONG = LAST + 2 * GAP + 20


@pytest.fixture
def long(one: Standby) -> Standby:
    """One with a long history."""
    while one.server.serial < LONG:
        one.server.commit({f"u/dev/{one.server.serial}": ("PLUGIN", -1, one.server.serial)})
    one.follow(entries=100)
    return one


def rewind(standby: Standby, serial: int) -> None:
    """Take a standby back to a serial."""
    with closing(Rewindable(standby.root, standby.server, Trap(), entries=1)) as target:
        target.begin()
        target.take_back(serial, asks=True)


def test_gaps_of_any_length_are_filled(long: Standby) -> None:
    before = contents(long)
    long.database.write("DELETE FROM changelog WHERE serial BETWEEN ? AND ?", LAST + 5, LAST + 4 + GAP)
    long.database.write("DELETE FROM changelog WHERE serial > ?", LONG - GAP)
    report = long.repair()
    assert report.findings == []
    assert contents(long) == before


def test_where_all_keys_are_gone_an_altered_entry_is_found_among_all(long: Standby) -> None:
    before = contents(long)
    edited(long, LAST + 9, lambda changes: changes.__setitem__("u/other", ["PLUGIN", -1, 1]))
    long.database.write("DELETE FROM kv")
    assert long.repair().findings == []
    assert contents(long) == before


def test_the_last_entry_is_replaced_where_its_rows_say_what_the_primarys_says(one: Standby) -> None:
    drop(B)(one.server)
    one.follow()
    before = contents(one)
    edited(one, LAST + 1, lambda changes: changes.__setitem__("u/x", changes.pop(B)))
    assert one.repair().findings == []
    assert contents(one) == before


def test_a_last_entry_that_differs_is_right_again_after_what_its_finding_names(one: Standby) -> None:
    before = contents(one)
    without_witnesses(one)
    alter(one, LAST)
    [finding] = one.look(Level.PRIMARY).findings
    assert (finding.kind, finding.serial) == (kinds.OTHER_ENTRY, LAST)
    assert f"replisync rewind --to-serial {LAST - 1}" in finding.remedy
    [finding] = one.repair(Level.PRIMARY).findings
    assert f"replisync rewind --to-serial {LAST - 1}" in finding.remedy
    rewind(one, LAST - 1)
    one.follow()
    assert one.look(Level.PRIMARY).findings == []
    after = contents(one)
    assert {name: after[name] for name in ("changelog", "kv", "files", "live")} == {
        name: before[name] for name in ("changelog", "kv", "files", "live")
    }


def test_where_several_entries_at_the_end_differ_the_first_of_them_is_gone_back_to(one: Standby) -> None:
    without_witnesses(one)
    alter(one, LAST)
    alter(one, LAST - 1)
    findings = one.repair(Level.PRIMARY).findings
    assert {finding.serial for finding in findings} == {LAST - 1, LAST}
    assert all(f"rewind --to-serial {LAST - 2}" in finding.remedy for finding in findings)


def test_a_seed_serial_beyond_the_end_is_found_and_nothing_is_said_to_agree(one: Standby) -> None:
    one.database.write("UPDATE replisync_source SET seed_kind = 'export', seed_serial = ?", LAST + 50)
    for level in (Level.QUICK, Level.PRIMARY):
        found = {finding.subject: finding for finding in one.look(level).findings}
        assert "--reseed" in found["replisync_source seed_serial"].remedy
        assert "replisync_tip" in found
    assert "changelog" in found
    assert one.repair(Level.PRIMARY).findings != []


def test_what_is_said_of_a_seed_that_nobody_knows_stays_a_finding(one: Standby) -> None:
    one.database.write("UPDATE replisync_source SET seed_kind = 'unheard of', promoted = 'perhaps'")
    assert {finding.subject for finding in one.look(Level.QUICK).findings} >= {
        "replisync_source seed_kind",
        "replisync_source promoted",
    }


def test_a_serial_of_another_world_is_no_endless_history(one: Standby) -> None:
    one.database.write("INSERT INTO changelog VALUES (2000000000, x'00')")
    assert {finding.kind for finding in one.look().findings} >= {kinds.POSITION, kinds.MISSING_ENTRY}
    assert {finding.kind for finding in one.repair().findings} >= {kinds.POSITION, kinds.MISSING_ENTRY}


def test_a_history_that_processes_read_is_judged_like_a_short_one(one: Standby) -> None:
    while one.server.serial < LAST + 2100:
        one.server.commit({f"u/dev/{one.server.serial % 100}": ("PLUGIN", -1, one.server.serial)})
    one.follow(entries=3000)
    before = contents(one)
    assert one.look(Level.FULL).findings == []
    damaged, missing = LAST + 600, LAST + 1900
    one.database.write("UPDATE changelog SET data = ? WHERE serial = ?", b"nothing", damaged)
    one.database.write("DELETE FROM changelog WHERE serial = ?", missing)
    findings = {(found.kind, found.serial) for found in one.look(Level.FULL).findings}
    assert findings == {(kinds.DAMAGED_ENTRY, damaged), (kinds.MISSING_ENTRY, missing)}
    assert one.repair().findings == []
    assert contents(one) == before


def test_a_missing_entry_makes_no_false_finding_of_those_that_lead_to_it(long: Standby) -> None:
    for key in (LAST + 60, LAST + 70):
        long.server.commit({f"u/dev/{key}": ("PLUGIN", -1, "again")})
    long.follow()
    long.database.write("DELETE FROM changelog WHERE serial = ?", LAST + 61)
    for level in (Level.QUICK, Level.FULL):
        assert [(one.kind, one.serial) for one in long.look(level).findings] == [
            (kinds.MISSING_ENTRY, LAST + 61)
        ]


def test_an_entry_far_behind_our_last_commit_is_not_asked_for(one: Standby) -> None:
    """It is somebody else's, or one of ours whose serial is damaged: the primary is not said to be behind."""
    one.database.write("UPDATE changelog SET serial = 99 WHERE serial = 9")
    kinds_found = {finding.kind for finding in one.look(Level.PRIMARY).findings}
    assert kinds_found >= {kinds.POSITION, kinds.MISSING_ENTRY}
    assert kinds.OTHER_ENTRY not in kinds_found
    assert kinds.POSITION in {finding.kind for finding in one.repair(Level.PRIMARY).findings}


def test_without_the_primary_a_commit_that_never_was_stays_and_is_told(one: Standby) -> None:
    one.database.write("UPDATE replisync_timeline SET serial = 99 WHERE serial = 3")
    [finding] = one.repair(asks=False).findings
    assert finding.kind == kinds.POSITION
    assert "--replica-keyfile" in finding.remedy


def test_many_altered_entries_before_one_that_cannot_be_read_are_no_damage_of_the_primary(
    long: Standby,
) -> None:
    for serial in range(LAST + 1, LAST + GAP):
        alter(long, serial)
    long.database.write("UPDATE changelog SET data = x'ff' WHERE serial = ?", LONG)
    found = {finding.kind for finding in long.look(Level.PRIMARY).findings}
    assert found == {kinds.OTHER_ENTRY, kinds.DAMAGED_ENTRY}


# What the witnesses of entries tell.


def test_an_altered_entry_is_found_without_the_primary_and_waits_for_it(one: Standby) -> None:
    before = contents(one)
    alter(one, 4)
    for _ in range(2):
        [finding] = one.look(Level.FULL).findings
        assert (finding.kind, finding.subject) == (kinds.OTHER_ENTRY, "serial 4")
        [finding] = one.repair(asks=False).findings
        assert "--replica-keyfile" in finding.remedy
    assert one.repair().findings == []
    assert contents(one) == before


def test_an_altered_entry_at_the_end_is_known_by_its_witness(one: Standby) -> None:
    before = contents(one)
    alter(one, LAST - 1)
    alter(one, LAST)
    assert one.repair().findings == []
    assert contents(one) == before


def proofs(standby: Standby) -> dict[int, bytes | None]:
    """Return the witnesses by the last serials of their commits."""
    return dict(standby.database.read("SELECT serial, witnesses FROM replisync_timeline"))


def test_entries_from_before_get_witnesses_where_they_are_the_primarys(one: Standby) -> None:
    """An altered one gets none, neither by a look nor until it is replaced."""
    right = proofs(one)
    without_witnesses(one)
    alter(one, 4)
    report = one.look(Level.FULL)
    assert (report.findings, report.checked["witnesses"]) == ([], 0)
    assert [finding.serial for finding in one.look(Level.PRIMARY).findings] == [4]
    assert proofs(one) == {**right, 4: None}
    assert one.look(Level.FULL).checked["witnesses"] == LAST
    assert one.repair(Level.PRIMARY).findings == []
    assert proofs(one) == right


def test_a_commit_whose_row_is_odd_is_no_obstacle_to_the_witnesses_of_the_others(one: Standby) -> None:
    right = proofs(one)
    without_witnesses(one)
    one.database.write("UPDATE replisync_timeline SET committed_at = 'soon' WHERE serial = 4")
    assert one.repair(Level.PRIMARY).findings == []
    assert proofs(one) == right


def test_a_witness_that_is_damaged_is_right_again_after_a_look_at_the_primarys_entry(one: Standby) -> None:
    right = proofs(one)
    one.database.write("UPDATE replisync_timeline SET witnesses = ? WHERE serial = 4", b"x" * SIZE)
    before = contents(one)
    assert [finding.serial for finding in one.repair(asks=False).findings] == [4]
    assert one.repair().findings == []
    assert (contents(one), proofs(one)) == (before, right)
    one.database.write("UPDATE replisync_timeline SET witnesses = x'00' WHERE serial = 4")
    assert one.repair(Level.PRIMARY).findings == []
    assert proofs(one) == right


def test_a_rewind_cuts_the_witnesses_of_a_batch_and_makes_none_of_what_is_stored(long: Standby) -> None:
    before = proofs(long)
    [end] = [serial for serial in before if serial - 100 < LAST + 50 <= serial]
    alter(long, LAST + 48)
    rewind(long, LAST + 50)
    after = proofs(long)
    cut = (end - (LAST + 50)) * SIZE
    assert after[LAST + 50] == (before[end] or b"")[:-cut]
    assert [finding.serial for finding in long.look(Level.FULL).findings] == [LAST + 48]
    assert long.repair().findings == []


def test_the_entry_of_an_export_is_right_again_where_its_witness_says_so(exported: Standby) -> None:
    """The primary has no such entry; back serials are ours to write."""
    before = contents(exported)
    edited(exported, SEED, lambda changes: next(iter(changes.values())).__setitem__(1, 0))
    assert exported.repair().findings == []
    assert contents(exported) == before


# Where it began with an export.

SEED = 4


@pytest.fixture(params=[True, False], ids=["witnesses", "no witnesses"])
def exported(one: Standby, request: pytest.FixtureRequest) -> Standby:
    """A standby whose entries up to SEED are its own, and others than the primary's."""
    one.database.write("UPDATE replisync_source SET seed_kind = 'export', seed_serial = ?", SEED)
    one.database.write("DELETE FROM replisync_timeline WHERE serial NOT IN (?, ?)", SEED, LAST)
    one.database.write("INSERT INTO replisync_tip SELECT serial, data FROM changelog WHERE serial = ?", LAST)
    alter(one, SEED - 1)
    edited(one, SEED, lambda changes: changes.__setitem__("u/ours", ["PLUGIN", -1, 1]))
    one.database.write("INSERT INTO kv VALUES ('u/ours', 'PLUGIN', ?)", SEED)
    if request.param:
        one.prove()
    else:
        without_witnesses(one)
    assert one.look(Level.PRIMARY).findings == []
    return one


def test_entries_of_an_export_are_not_replaced_where_it_is_said_to_end_before_them(exported: Standby) -> None:
    before = contents(exported)
    exported.database.write("UPDATE replisync_source SET seed_serial = ?", SEED - 2)
    for level in (Level.QUICK, Level.PRIMARY):
        [finding] = exported.look(level).findings
        assert (finding.kind, finding.subject) == (kinds.SOURCE, "replisync_source seed_serial")
    assert exported.repair(Level.PRIMARY).findings == []
    assert contents(exported) == before
    assert exported.database.read("SELECT seed_serial FROM replisync_source") == [(SEED,)]


@pytest.mark.parametrize(
    "lost", ["DELETE FROM replisync_timeline WHERE serial > 4", "DROP TABLE replisync_timeline"]
)
def test_what_we_committed_after_an_export_is_known_by_the_primarys_bytes_beside_it(
    exported: Standby, lost: str
) -> None:
    before = contents(exported)
    exported.database.write(lost)
    assert exported.repair(Level.PRIMARY).findings == []
    assert contents(exported) == before
    assert exported.look(Level.PRIMARY).findings == []


def test_what_somebody_else_wrote_after_an_export_stays_and_is_told(exported: Standby) -> None:
    exported.server.commit({"u/more": ("PLUGIN", -1, 1)})
    exported.database.write(
        "INSERT INTO changelog VALUES (?, ?)", LAST + 1, exported.server.entries[LAST + 1]
    )
    findings = exported.repair(Level.PRIMARY).findings
    assert "a devpi-server wrote to it" in next(one.remedy for one in findings if one.kind == kinds.POSITION)


def test_damaged_bytes_of_the_primarys_entry_are_ours_and_not_its_fault(exported: Standby) -> None:
    exported.database.write("UPDATE replisync_tip SET data = x'ff'")
    [finding] = exported.look(Level.PRIMARY).findings
    assert (finding.kind, finding.subject) == (kinds.SOURCE, "replisync_tip")
    assert exported.repair(Level.PRIMARY).findings == []
