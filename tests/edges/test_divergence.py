"""Two histories side by side: where they part is found with few requests, and nothing is taken for sure."""

import pytest

from replisync.changelog.divergence import Comparison
from replisync.changelog.ports import Hello
from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry, PrimaryUnreachable, TargetUnusable, WrongHistory
from tests.support.history import serialize


def entry(what: str) -> bytes:
    """Return an entry that says something; an empty text says nothing."""
    return serialize(({f"{what}/.config": ("USER", -1, {"title": what})}, [])) if what else EMPTY_ENTRY


class Histories:
    """Ours and theirs as lists of texts, one for each serial, and how often theirs was asked for.

    broken: what is raised in the place of entries of theirs, by serial.
    """

    def __init__(self, ours: list[str], theirs: list[str], **options: object) -> None:
        self.ours = [entry(text) for text in ours]
        self.theirs = [entry(text) for text in theirs]
        self.broken: dict[int, Exception] = {}
        self.asked: list[int] = []
        self._options = options

    def _their_entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        self.asked.append(serial)
        if serial in self.broken:
            raise self.broken[serial]
        hello = Hello("primary", len(self.theirs) - 1, False)
        return hello, parse_stored(serial, self.theirs[serial]) if serial < len(self.theirs) else None

    def check(self) -> Hello:
        """Compare them at our last serial."""
        comparison = Comparison(
            lambda serial: self.ours[serial],
            self._their_entry,
            **self._options,  # type: ignore[arg-type]
        )
        return comparison.check(len(self.ours) - 1)

    def parted(self) -> WrongHistory:
        """Return the error that they end with."""
        with pytest.raises(WrongHistory) as caught:
            self.check()
        return caught.value


def common(size: int, way: str = "") -> list[str]:
    """Return a history; `way` tells apart what is not common."""
    return [f"{way}{serial}" for serial in range(size)]


@pytest.mark.parametrize("more", [0, 1, 50])
def test_a_primary_that_has_our_history_is_known_by_a_few_entries(more: int) -> None:
    histories = Histories(common(100), common(100 + more))
    assert histories.check().serial == 99 + more
    assert histories.asked == [99, 98, 97, 96]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_short_history_is_compared_as_far_as_it_goes(size: int) -> None:
    histories = Histories(common(size), common(10))
    histories.check()
    assert len(histories.asked) == max(1, size)


@pytest.mark.parametrize("fork", [0, 1, 41, 97, 98])
@pytest.mark.parametrize("theirs", [1, 20, 99, 100, 101, 150])
def test_the_fork_is_found_wherever_it_is_and_however_far_the_primary_got(fork: int, theirs: int) -> None:
    other = (common(fork + 1) + common(200, "other ")[fork + 1 :])[:theirs]
    error = Histories(common(100), other).parted()
    last = min(fork, theirs - 1)
    assert error.details["fork_serial"] == last
    assert f"agree up to serial {last}" in str(error)
    assert f"rewind --to-serial {last}`" in error.hint
    assert error.serial == 99


def test_the_number_of_requests_grows_with_the_logarithm() -> None:
    histories = Histories(common(100_000), common(54_321) + common(100_000, "other ")[54_321:])
    assert histories.parted().details["fork_serial"] == 54_320
    assert len(histories.asked) < 1 + 4 * 17


@pytest.mark.parametrize("edited", [96, 97, 98, 99])
def test_an_entry_that_was_edited_near_the_end_is_found(edited: int) -> None:
    theirs = common(120)
    theirs[edited] = "edited"
    error = Histories(common(100), theirs).parted()
    assert error.details["fork_serial"] == edited - 1


def test_entries_that_say_nothing_are_no_witnesses() -> None:
    """Both have nothing at the end, and other things before it."""
    nothing = [""] * 10
    histories = Histories([*common(90), *nothing], [*common(80), *common(90, "other ")[80:], *nothing])
    error = histories.parted()
    assert error.details["fork_serial"] == 79
    assert "another entry at serial 89" in str(error)


@pytest.mark.parametrize("alike", [range(40, 41), range(60, 63), [30, 50, 70, 90]], ids=str)
def test_entries_that_are_alike_by_chance_do_not_count_as_agreement(alike: list[int]) -> None:
    """As the refresh of a mirror's links may be in two histories that parted long before."""
    theirs = common(20) + common(120, "other ")[20:]
    for serial in alike:
        theirs[serial] = common(100)[serial]
    assert Histories(common(100), theirs).parted().details["fork_serial"] == 19


def test_histories_that_have_nothing_in_common_cannot_be_brought_together() -> None:
    error = Histories(common(50), common(60, "other ")).parted()
    assert "fork_serial" not in error.details
    assert "no serial is known" in str(error)
    assert "rebuild the standby" in error.hint


def test_entries_that_a_seed_made_anew_are_not_compared() -> None:
    seeded = ["", "imported", "imported too"]
    assert Histories(seeded, common(10), first=3).check().serial == 9
    followed = Histories([*seeded, *common(10)[3:6]], common(10), first=3)
    followed.check()
    assert followed.asked == [5, 4, 3]
    error = Histories([*seeded, "other"], common(10), first=3).parted()
    assert "fork_serial" not in error.details
    assert "fork_serial" not in Histories(seeded, common(2), first=3).parted().details


def test_a_damaged_entry_of_the_primary_behind_us_is_no_other_history() -> None:
    histories = Histories(common(100), common(110))
    histories.broken[98] = CorruptEntry("reading", "damaged")
    assert histories.check().serial == 109


def test_a_damaged_entry_of_the_primary_is_no_agreement_where_the_histories_part() -> None:
    histories = Histories(common(100), common(60) + common(110, "other ")[60:])
    histories.broken.update(dict.fromkeys(range(45, 55), CorruptEntry("reading", "damaged")))
    fork = histories.parted().details["fork_serial"]
    assert isinstance(fork, int)
    assert fork <= 59


def test_a_primary_that_goes_away_meanwhile_does_not_hide_that_they_differ() -> None:
    """It is sure already, and must not be taken for trouble that passes."""
    histories = Histories(common(100), common(60) + common(110, "other ")[60:])
    histories.broken[49] = PrimaryUnreachable("reading", "the connection was lost")
    error = histories.parted()
    assert "fork_serial" not in error.details
    assert "up to which they agree is unknown: the connection was lost" in str(error)


def test_a_clone_that_is_not_complete_cannot_be_rewound() -> None:
    error = Histories(common(100), common(50), complete=False).parted()
    assert "agree up to serial 49" in str(error)
    assert "clone into an empty serverdir" in error.hint


def test_an_entry_of_ours_that_is_damaged_is_not_said_to_be_the_primarys() -> None:
    histories = Histories(common(10), common(12))
    histories.ours[7] = b"\xff"
    histories.check()
    histories.ours[9] = b"\xff"
    with pytest.raises(TargetUnusable) as caught:
        histories.check()
    assert "our own entry at serial 9" in str(caught.value)
    assert "verify --repair" in caught.value.hint
