"""What is not here in order is told from what damage says is not here, whatever the runs before left out."""

from collections.abc import Callable
from contextlib import closing

import pytest
from alembic import command

from replisync.changelog.records import UNASKED
from replisync.errors import FilesMissing
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import GONE, NOMD5, A, B, Target, drop, put
from tests.edges.standbys import Standby, copied
from tests.edges.test_migrations import configured, connected
from tests.edges.test_rewind import Standby as Rewindable
from tests.fakes import Died, ScriptedPrimary, Trap

LATER = "u/pypi/+f/ddd/d/later-1.0.zip"
MIRRORS = frozenset({"mirror"})
REASONS = "SELECT relpath, state, reason FROM replisync_files WHERE state <> 'present' ORDER BY relpath"


def run(
    standby: Standby, work: Callable[[Target], object], *, trap: Trap | None = None, **how: object
) -> None:
    """Have a run do something."""
    target = Target(standby.root, standby.server, trap or Trap(), entries=1, **how)  # type: ignore[arg-type]
    with closing(target):
        target.begin()
        work(target)


def catch_up(target: Target) -> None:
    """Do what `catchup` does."""
    target.catch_up(target.server.serial)
    target.pipeline.wanted.retry()


def right(standby: Standby, missing: int, absent: int = 0) -> None:
    """Make sure that nothing is found, and that so many files are known not to be here."""
    for level in (Level.QUICK, Level.FULL):
        report = standby.look(level)
        assert report.findings == []
        assert (report.known["files_missing"], report.known["files_absent"]) == (missing, absent)


def serve(server: ScriptedPrimary) -> None:
    """Commit two files of a mirror, one of them new."""
    put(n=(NOMD5, b"mirrored once more", False), later=(LATER, b"later", True))(server)


def test_indexes_that_are_left_out_in_one_run_and_not_in_the_next_are_no_findings(one: Standby) -> None:
    serve(one.server)
    run(one, catch_up, skip=MIRRORS)
    right(one, 3)
    drop(A)(one.server)
    run(one, lambda target: target.catch_up(one.server.serial))
    right(one, 3)
    run(one, catch_up)
    right(one, 1)
    put(n=(NOMD5, b"and again", False))(one.server)
    run(one, catch_up, skip=frozenset({"all"}))
    right(one, 2)


def test_a_run_that_is_killed_leaves_no_finding_while_it_leaves_out_or_brings_what_was(one: Standby) -> None:
    serve(one.server)
    for skip in (MIRRORS, frozenset[str]()):
        calls = Trap()
        before = copied(one, one.root.with_name(f"counted-{len(skip)}"))
        before.server = one.server
        run(before, catch_up, trap=calls, skip=skip)
        for at, name in enumerate(calls.names):
            if not name.startswith(("store.commit", "files.place")):
                continue
            killed = copied(one, one.root.with_name(f"killed-{len(skip)}-{at}"))
            killed.server = one.server
            with pytest.raises(Died):
                run(killed, catch_up, trap=Trap(at, after=True), skip=skip)
            assert killed.look().findings == [], f"after a death in call {at}, {name}"
        run(one, catch_up, skip=skip)


@pytest.mark.parametrize("answer", [302, 410])
def test_what_nobody_can_have_is_no_finding_as_long_as_it_is_written_why(one: Standby, answer: int) -> None:
    one.server.commit({"u/.config": ("USER", -1, {"indexes": {"pypi": {"type": "mirror"}}})})
    serve(one.server)
    one.server.files[LATER] = answer
    run(one, catch_up)
    right(one, 1, 1)
    one.database.write("UPDATE replisync_files SET reason = NULL WHERE relpath = ?", LATER)
    [finding] = one.look(Level.QUICK).findings
    assert (finding.kind, finding.subject) == (kinds.MISSING_FILE, LATER)
    assert one.look(Level.QUICK).known["files_absent"] == 0
    assert one.repair(Level.QUICK).findings == []
    right(one, 1, 1)


def test_files_whose_faults_are_forgotten_are_to_be_asked_for(one: Standby) -> None:
    run(one, lambda target: target.store.clear_faults([GONE]))
    right(one, 1)
    assert one.database.read(REASONS) == [(GONE, "wanted", UNASKED)]
    run(one, catch_up)
    right(one, 1)
    assert one.database.read(REASONS) == [(GONE, "wanted", None)]


def test_a_fault_that_is_gone_is_found_and_is_a_fault_again(one: Standby) -> None:
    one.database.write("DELETE FROM replisync_faults")
    [finding] = one.look(Level.QUICK).findings
    assert (finding.kind, finding.subject) == (kinds.MISSING_FILE, GONE)
    [finding] = one.repair(Level.QUICK).findings
    assert "404" in finding.remedy
    right(one, 1)
    assert one.database.read("SELECT relpath FROM replisync_faults") == [(GONE,)]


def test_nobody_can_tell_without_the_primary_what_a_lost_file_was(one: Standby) -> None:
    one.remove_file(B)
    one.database.write("UPDATE replisync_files SET state = 'absent' WHERE relpath = ?", B)
    [finding] = one.repair(asks=False).findings
    assert (finding.kind, finding.subject) == (kinds.MISSING_FILE, B)
    assert "--replica-keyfile" in finding.remedy
    assert one.repair().findings == []
    assert one.read_file(B) == b"b" * 10


def test_a_file_that_waits_for_a_later_content_is_still_wanted_where_that_is_taken_back(one: Standby) -> None:
    """The fault is then of a serial that is no more."""
    serial = one.server.serial
    one.server.commit({"u/.config": ("USER", -1, {"indexes": {"dev": {"type": "stage"}}})})
    put(n=(NOMD5, b"later", False))(one.server)
    one.server.files[NOMD5] = 502
    store_faults: list[tuple[str, int]] = []

    def hold(target: Target) -> None:
        with pytest.raises(FilesMissing):
            target.catch_up(one.server.serial)
        store_faults.extend((fault.relpath, fault.serial) for fault in target.store.faults())

    one.database.write("DELETE FROM replisync_faults")
    one.database.write(
        "UPDATE replisync_files SET state = 'wanted', size = NULL, reason = ? WHERE relpath = ?",
        UNASKED,
        NOMD5,
    )
    run(one, hold)
    assert (NOMD5, one.server.serial) in store_faults
    with closing(Rewindable(one.root, one.server, Trap(), entries=1)) as target:
        target.begin()
        target.take_back(serial)
    assert (NOMD5, "wanted", UNASKED) in one.database.read(REASONS)


def test_a_repair_may_leave_indexes_out(one: Standby) -> None:
    one.remove_file(NOMD5)
    one.database.write("UPDATE replisync_files SET state = 'absent' WHERE relpath = ?", NOMD5)
    assert one.repair(skip=MIRRORS).findings == []
    assert one.read_file(NOMD5) is None
    right(one, 2)


def test_a_standby_of_the_version_before_has_no_findings_when_it_is_brought_up_to_date(one: Standby) -> None:
    """It did not note reasons, and a repair of its left sizes of what nobody can have."""
    serve(one.server)
    one.server.files[LATER] = 302
    run(one, catch_up, skip=frozenset({"all"}))
    one.database.write("UPDATE replisync_files SET state = 'absent', size = 5 WHERE relpath = ?", LATER)
    one.database.write("UPDATE replisync_files SET state = 'absent' WHERE relpath = ?", B)
    (one.root / "+files" / B).unlink()
    one.database.write("UPDATE replisync_files SET size = NULL WHERE relpath = ?", B)
    with connected(one.root / ".sqlite") as connection:
        command.downgrade(configured(connection), "0003")
    run(one, lambda target: target.store.prepare())
    right(one, 3, 1)
    assert (GONE, "wanted", None) in one.database.read(REASONS)
    assert (LATER, "wanted", UNASKED) in one.database.read(REASONS)
