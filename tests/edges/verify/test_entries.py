"""Entries are judged by their bytes, their witnesses and the primary."""

from contextlib import suppress

import pytest
from devpi_server import fileutil

from replisync.devpi.entries import EMPTY_RENAMES
from replisync.devpi.wire import encode
from replisync.errors import CorruptEntry, WrongHistory
from replisync.verify import findings as kinds
from replisync.verify.checks.entries import read_entry
from replisync.verify.run import Level
from tests.edges.standbys import Standby
from tests.edges.verify.damages import DAMAGES, FOREIGN, LAST, alter, contents, without_witnesses
from tests.support.history import serialize


def _can_load(data: bytes) -> bool:
    try:
        fileutil.loads(data)
    except Exception:  # noqa: BLE001 - devpi's reader fails as it comes
        return False
    return True


def test_an_entry_that_devpi_cannot_load_is_damaged_whatever_its_value_is_of() -> None:
    """A flipped bit in each byte of an entry, in values too that replication never looks into."""
    changes = {
        "u/dev/p/1.0/.config": (
            "PROJVERSION",
            3,
            {"name": "p", "requires": ["a", "b"], "n": 1, "t": (1, None)},
        ),
        "u/dev/p/.versions": ("PROJVERSIONS", 3, {"1.0", "2.0"}),
    }
    data = encode((changes, []))
    # Without lists, of which devpi makes one as long as it is said to be, whatever follows.
    bits = 8 * (len(data) - len(EMPTY_RENAMES))
    unread = 0
    accepted = []
    for place in range(0, bits, 7):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        if flipped[place // 8] == ord("K") or _can_load(bytes(flipped)):
            continue
        unread += 1
        with suppress(CorruptEntry):
            accepted.append(read_entry(4, bytes(flipped)))
    assert accepted == []
    assert unread > len(data) // 2


def test_an_altered_entry_is_found_beside_the_primarys_and_replaced_by_it(one: Standby) -> None:
    before = contents(one)
    without_witnesses(one)
    alter(one, 0)
    assert one.look(Level.FULL).findings == []
    [finding] = one.look(Level.PRIMARY).findings
    assert (finding.kind, finding.serial) == (kinds.OTHER_ENTRY, 0)
    assert one.repair(Level.PRIMARY).findings == []
    assert contents(one) == before
    assert one.look(Level.PRIMARY).findings == []


# What is found of them where they have no witness: the rows that do not fit to them.
ALTERED = {
    "an entry with another key": kinds.KEY,
    "an entry with another kind of a key": kinds.KEY,
    "an entry with another digest of a file": kinds.LEDGER,
}


@pytest.mark.parametrize("witnesses", [True, False])
@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_entry_is_not_believed_where_a_row_contradicts_it(
    one: Standby, name: str, witnesses: bool
) -> None:
    """Neither is the row: only the primary can tell, and until it does both stay as they are."""
    before = contents(one)
    if not witnesses:
        without_witnesses(one)
    DAMAGES[name].do(one)
    damaged = contents(one)
    report = one.repair(asks=False)
    expected = kinds.OTHER_ENTRY if witnesses else ALTERED[name]
    assert expected in {finding.kind for finding in report.findings}
    assert [each.remedy for each in report.findings if "--replica-keyfile" not in each.remedy] == []
    assert report.repairs == []
    assert contents(one) == damaged
    assert one.repair().findings == []
    assert contents(one) == before


def test_an_entry_that_differs_at_the_end_may_be_where_the_histories_part(one: Standby) -> None:
    """Nothing tells an altered last entry from a primary that was taken back and wrote another one."""
    before = contents(one)
    without_witnesses(one)
    alter(one, LAST)
    altered = contents(one)
    [finding] = one.repair(Level.PRIMARY).findings
    assert (finding.kind, finding.serial) == (kinds.OTHER_ENTRY, LAST)
    assert f"rewind --to-serial {LAST - 1}" in finding.remedy
    assert contents(one) == altered != before


def test_entries_are_not_taken_from_a_history_that_is_not_ours(one: Standby) -> None:
    without_witnesses(one)
    [(data,)] = one.database.read("SELECT data FROM changelog WHERE serial = 4")
    one.database.write("DELETE FROM changelog WHERE serial = 4")
    for serial in (3, 5):
        one.server.entries[serial] = one.server.entries[0]
    [finding] = [each for each in one.repair().findings if each.kind == kinds.MISSING_ENTRY]
    assert "not the primary's" in finding.remedy
    assert one.database.read("SELECT count(*) FROM changelog") == [(LAST,)]
    assert data


def test_a_primary_that_parted_long_ago_is_no_heap_of_findings(one: Standby) -> None:
    del one.server.entries[LAST:]
    with pytest.raises(WrongHistory) as caught:
        one.look(Level.PRIMARY)
    assert caught.value.details["fork_serial"] == LAST - 1


@pytest.mark.parametrize("differing", [3, 4, 5])
def test_a_primary_that_was_rewound_and_has_grown_past_us_is_no_list_of_findings(
    one: Standby, differing: int
) -> None:
    """Some of our last entries may have been altered; that all of them were is not believed."""
    for serial in range(LAST + 1 - differing, LAST + 1):
        one.server.entries[serial] = serialize(({f"other{serial}/.config": ("USER", -1, {})}, []))
    one.server.commit({})
    if differing < 4:
        assert {finding.kind for finding in one.look(Level.PRIMARY).findings} == {kinds.OTHER_ENTRY}
        return
    for act in (one.look, one.repair):
        with pytest.raises(WrongHistory) as caught:
            act(Level.PRIMARY)
        assert caught.value.details["fork_serial"] == LAST - differing


def test_what_somebody_else_wrote_stays_and_is_told(one: Standby) -> None:
    DAMAGES[FOREIGN].do(one)
    before = contents(one)
    [finding] = one.repair().findings
    assert "find out which devpi-server wrote" in finding.remedy
    assert contents(one) == before


def test_what_somebody_else_wrote_is_adopted_where_the_primary_has_it_too(one: Standby) -> None:
    one.server.commit({})
    DAMAGES[FOREIGN].do(one)
    assert one.repair().findings == []
    assert one.look(Level.PRIMARY).findings == []
    one.follow()
