"""Witnesses of entries, as the row of a commit has them."""

from replisync.changelog.witness import SIZE, UNKNOWN, by_serial, kept_until, replaced, witness, witnesses

ENTRIES = [b"five", b"six", b"seven"]
ALL = witnesses(ENTRIES)


def test_each_entry_of_a_commit_has_its_own() -> None:
    assert by_serial(7, ALL) == {5: witness(b"five"), 6: witness(b"six"), 7: witness(b"seven")}
    assert len(set(by_serial(7, ALL).values())) == len(ENTRIES)


def test_a_commit_from_before_or_with_a_damaged_row_has_none() -> None:
    for found in (None, b"", b"x", ALL + b"x", UNKNOWN * 3):
        assert by_serial(7, found) == {}


def test_what_is_cut_off_keeps_those_of_the_entries_that_stay() -> None:
    assert kept_until(7, 7, ALL) == ALL
    assert by_serial(5, kept_until(5, 7, ALL)) == {5: witness(b"five")}
    assert kept_until(2, 7, ALL) == b""


def test_those_of_some_entries_are_replaced_and_the_others_stay_as_they_are() -> None:
    assert replaced(4, 7, ALL, {6: b"y" * SIZE}) == ALL[:SIZE] + b"y" * SIZE + ALL[-SIZE:]
    assert replaced(4, 7, None, {6: witness(b"six")}) == UNKNOWN + witness(b"six") + UNKNOWN


def test_those_beyond_the_commit_before_are_left_out() -> None:
    assert replaced(6, 7, ALL, {}) == witness(b"seven")
