"""What stands of verifications: per level, until one that sees as much or a repair clears it."""

from collections import Counter

import pytest

from replisync.changelog.records import LEVELS
from replisync.standby.database.store import Store
from replisync.verify.findings import FILE_DIGEST, MISSING_FILE, PERMISSIONS, Finding, Report
from replisync.verify.run import Level
from replisync.verify.standing import distinct, record, standing
from tests.edges.conftest import Database

NOW = "2026-11-22T11:39:23.000Z"


def finding(kind: str, subject: str) -> Finding:
    return Finding(kind, subject, 3, "this", "that")


def report(level: str, *findings: Finding, repairs: tuple[Finding, ...] = ()) -> Report:
    """Return the report of a verification."""
    return Report(
        level=level,
        serial=9,
        outcome="failed" if findings else "ok",
        started=NOW,
        finished=NOW,
        seconds=0.1,
        counts=dict(Counter(one.kind for one in findings)),
        findings=list(findings),
        repairs=list(repairs),
        total=len(findings),
        repaired=len(repairs),
    )


def kinds(store: Store) -> dict[str, dict[str, int]]:
    """Return what stands, by level."""
    return {one.level: one.kinds for one in standing(store)}


LOST, ALTERED = finding(MISSING_FILE, "a/b/c"), finding(FILE_DIGEST, "a/b/d")


def test_the_levels_are_those_of_verify() -> None:
    assert tuple(str(level) for level in Level) == LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_a_verification_clears_its_own_level_and_those_below(store: Store, level: str) -> None:
    record(store, report("full", LOST, ALTERED))
    assert kinds(store) == {"full": {MISSING_FILE: 1, FILE_DIGEST: 1}}
    record(store, report(level))
    assert bool(standing(store)) == (Level.of(level) < Level.FULL)
    last = store.last_verification()
    assert last is not None
    assert (last.level, last.outcome) == (level, "ok")


def test_each_level_has_its_own(store: Store, database: Database) -> None:
    """There are no more rows than levels, however often it is verified."""
    for _ in range(3):
        for level in reversed(LEVELS):
            record(store, report(level, finding(MISSING_FILE, level)))
    assert list(kinds(store)) == list(reversed(LEVELS))
    assert database.read("SELECT count(*) FROM replisync_verify") == [(len(LEVELS),)]
    record(store, report("primary"))
    assert kinds(store) == {}
    assert database.read("SELECT count(*) FROM replisync_verify") == [(1,)]


def test_a_repair_at_a_lower_level_clears_what_it_repaired(store: Store) -> None:
    record(store, report("full", LOST, ALTERED))
    record(store, report("files", repairs=(LOST,)))
    assert kinds(store) == {"full": {FILE_DIGEST: 1}}
    record(store, report("quick", repairs=(ALTERED,)))
    assert kinds(store) == {}


def test_what_is_not_remembered_by_name_is_not_cleared_by_a_repair_below(store: Store) -> None:
    """The size of what is remembered is bounded."""
    many = tuple(finding(MISSING_FILE, f"{number}" * 5000) for number in range(25))
    record(store, report("full", *many, *(finding(MISSING_FILE, f"{number}") for number in range(25))))
    record(store, report("files", repairs=many))
    [left] = standing(store)
    assert left.kinds == {MISSING_FILE: 50}
    noted = store.verifications()[-1].found
    assert noted is not None
    assert len(noted) < 10_000


@pytest.mark.parametrize("found", [None, "", "{", "[]", '{"kinds": 5}', '{"kinds": {"x": "y"}, "named": []}'])
def test_findings_without_kinds_may_be_anything(store: Store, database: Database, found: str | None) -> None:
    """Those of a replisync that did not note them, and damaged ones, count as content."""
    record(store, report("full", finding(PERMISSIONS, "x")))
    [(text,)] = database.read("SELECT found FROM replisync_verify")
    assert PERMISSIONS in text
    value = "NULL" if found is None else f"'{found}'"
    database.write(f"UPDATE replisync_verify SET found = {value}")  # noqa: S608
    [left] = standing(store)
    assert left.kinds == {"finding": 1}
    assert left.only(harmless=False).kinds == {"finding": 1}
    assert str(left) == "1 finding"


def test_they_are_said_in_words(store: Store) -> None:
    many = [finding(MISSING_FILE, f"file{number}") for number in range(5)]
    record(store, report("full", *many, ALTERED, finding(PERMISSIONS, "x")))
    [found] = standing(store)
    against, harmless = found.only(harmless=False), found.only(harmless=True)
    assert str(against) == "5 missing-file (file0, file1, file2, ..), 1 file-digest (a/b/d)"
    assert str(harmless) == "1 permissions (x)"
    assert str(found.beyond({MISSING_FILE: 5, PERMISSIONS: 1})) == "1 file-digest (a/b/d)"
    assert list(map(str, distinct([against, found]))) == [str(against), "1 permissions (x)"]
