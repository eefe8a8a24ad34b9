"""Values of kinds that nobody asked for are checked for their structure and passed over, and nothing else."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replisync.devpi.wire import UNREAD, Decoder, decode
from replisync.errors import CorruptEntry
from tests.unit.samples import RENAMES, SMALL, changes, dump, entries, feed_all, load, pieces, typed, upload

KINDS = frozenset({"STAGEFILE", "USER"})


def passed_over(made: dict[str, tuple[str, int, Any]]) -> dict[str, tuple[str, int, Any]]:
    """Return changes as a decoder gives them that builds values of KINDS alone."""
    return {
        path: (kind, back, value if kind in KINDS else UNREAD) for path, (kind, back, value) in made.items()
    }


@given(changes, st.lists(st.text(max_size=5), max_size=3), st.lists(st.integers(0, 2**16), max_size=12))
@settings(max_examples=150)
def test_an_entry_in_any_chunks_keeps_its_bytes_and_the_values_of_the_kinds_asked_for(
    made: dict[str, Any], renames: list[str], cuts: list[int]
) -> None:
    data = dump((made, renames))
    (decoded,) = feed_all(Decoder(kinds=KINDS), pieces(data, cuts))
    assert decoded.raw == data
    assert decoded.second == decode(data).second
    assert typed(decoded.value) == typed((passed_over(made), renames))


@pytest.mark.parametrize("kinds", [frozenset(), KINDS, frozenset({"PROJVERSION"})])
def test_a_real_entry_cut_at_any_byte_is_the_same(kinds: frozenset[str]) -> None:
    data = entries()["upload"]
    (whole,) = Decoder(kinds=kinds).feed(data)
    for cut in range(1, len(data)):
        (decoded,) = feed_all(Decoder(kinds=kinds), [data[:cut], data[cut:]])
        assert (typed(decoded.value), decoded.raw, decoded.second) == (typed(whole.value), data, whole.second)


def test_a_real_entry_byte_by_byte_is_the_same() -> None:
    data = entries()["upload"] + entries()["deletion"]
    got = feed_all(Decoder(kinds=KINDS), [bytes([byte]) for byte in data])
    assert [d.raw for d in got] == [entries()["upload"], entries()["deletion"]]
    assert typed(got[0].value) == typed((passed_over(upload()), RENAMES))


def test_deletions_of_other_kinds_are_passed_over_too() -> None:
    (decoded,) = Decoder(kinds=KINDS).feed(dump(({"a": ("PLUGIN", 1, None), "b": ("USER", 1, None)}, [])))
    assert decoded.value == ({"a": ("PLUGIN", 1, UNREAD), "b": ("USER", 1, None)}, [])


def test_an_entry_that_ends_early_is_never_a_value() -> None:
    data = entries()["upload"]
    for end in range(len(data)):
        decoder = Decoder(kinds=KINDS)
        assert decoder.feed(data[:end]) == []
        assert decoder.pending == end


def test_any_damaged_byte_gives_a_value_with_its_bytes_or_corrupt_entry() -> None:
    """Whatever is accepted, and can be read at all, gives devpi the same changes from what we store."""
    data = entries()["upload"]
    for place in range(len(data)):
        for byte in (data[place] ^ 1 << place % 8, 0x40, 0x50, 0x51):
            _value_or_corrupt(data[:place] + bytes([byte]) + data[place + 1 :])


def _value_or_corrupt(data: bytes) -> None:
    decoder = Decoder(SMALL, kinds=KINDS)
    try:
        got = decoder.feed(data)
    except CorruptEntry:
        return
    assert data.startswith(b"".join(d.raw for d in got))
    for decoded in got:
        try:
            theirs = decode(decoded.raw, SMALL).value
        except CorruptEntry:  # what was not looked into may be damaged
            continue
        if type(decoded.value) is tuple and decoded.second >= 0 and type(decoded.value[0]) is dict:
            assert typed(load(decoded.raw[: decoded.second] + b"K\0\0\0\0@\0\0\0\2Q")) == typed(
                (theirs[0], [])
            )
            assert typed(decoded.value[0]) == typed(passed_over(theirs[0]))


@pytest.mark.parametrize(
    "item",
    [
        *(b"", b"P", b"LP", b"LLP", b"LL", b"Q", b"B\0\0\0\0", b"\0", b"L@\0\0\0\2", b"L@\0\0\0\4"),
        *(b"O\0\0\0\1", b"LE\0\0\0\2", b"J@\0\0\0\3", b"N\xff\xff\xff\xff", b"K\0\0\0\1F\0\0\0\0P"),
    ],
    ids=repr,
)
def test_an_item_without_structure_is_refused(item: bytes) -> None:
    head = b"JN\0\0\0\1aN\0\0\0\6PLUGINF\0\0\0\1"
    tail = b"@\0\0\0\3PK\0\0\0\0@\0\0\0\2Q"
    with pytest.raises(CorruptEntry):
        Decoder(SMALL, kinds=KINDS).feed(head + item + tail)


def test_a_passed_over_value_may_be_as_long_as_the_limit_and_no_longer() -> None:
    around = len(dump(({"a": ("PLUGIN", 1, "")}, [])))
    for size, chunk in ((0, 10**9), (0, 100), (1, 10**9), (1, 100)):
        value = "x" * (SMALL.entry_bytes - around + size)
        data = dump(({"a": ("PLUGIN", 1, value)}, []))
        chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
        decoder = Decoder(SMALL, kinds=KINDS)
        if size:
            with pytest.raises(CorruptEntry, match="more than"):
                feed_all(decoder, chunks)
        else:
            assert [d.raw for d in feed_all(decoder, chunks)] == [data]


def test_a_passed_over_list_may_not_announce_more_than_can_come() -> None:
    """Nobody here builds it, but the devpi-server that reads the entry will."""
    data = dump(({"a": ("PLUGIN", 1, [])}, [])).replace(b"K\0\0\0\0@", b"K\x7f\xff\xff\xff@", 1)
    with pytest.raises(CorruptEntry):
        Decoder(SMALL, kinds=KINDS).feed(data)
