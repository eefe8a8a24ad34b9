"""However the network cuts or damages the bytes: values, or CorruptEntry, or "not yet"; nothing else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replisync.devpi.wire import Decoder, decode
from replisync.errors import CorruptEntry
from tests.unit.samples import SMALL, dump, entries, feed_all, load, pieces, typed, values

SAMPLES = {**entries(), **{f"value {value!r}"[:20]: dump(value) for value in (None, 1, "é", 1.5, {1: [2]})}}
# What a streaming answer looks like: numbers and entries, one behind the other.
STREAM = b"".join(part for number, raw in enumerate(entries().values()) for part in (dump(number), raw))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_value_cut_at_any_byte_is_the_same_value(name: str) -> None:
    data = SAMPLES[name]
    whole = decode(data)
    for cut in range(len(data) + 1):
        decoder = Decoder()
        first = decoder.feed(data[:cut])
        assert bool(first) == (cut == len(data))
        assert decoder.pending == (cut if cut < len(data) else 0)
        (decoded,) = first + decoder.feed(data[cut:])
        assert (typed(decoded.value), decoded.raw, decoded.second) == (typed(whole.value), data, whole.second)


def test_a_stream_that_comes_byte_by_byte_is_the_same_stream() -> None:
    whole = Decoder().feed(STREAM)
    single = feed_all(Decoder(), [bytes([byte]) for byte in STREAM])
    assert [d.raw for d in single] == [d.raw for d in whole]
    assert [d.second for d in single] == [d.second for d in whole]
    assert [typed(d.value) for d in single] == [typed(d.value) for d in whole]
    assert b"".join(d.raw for d in whole) == STREAM


@given(st.lists(values, max_size=4), st.lists(st.integers(0, 2**16), max_size=12))
def test_any_values_in_any_chunks_come_out_in_order(sent: list[object], cuts: list[int]) -> None:
    data = b"".join(map(dump, sent))
    decoder = Decoder()
    got = feed_all(decoder, pieces(data, cuts))
    assert [typed(d.value) for d in got] == [typed(load(dump(value))) for value in sent]
    assert b"".join(d.raw for d in got) == data
    assert decoder.pending == 0


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
@settings(max_examples=60)
def test_a_real_stream_in_any_chunks_gives_the_same_entries(cuts: list[int]) -> None:
    got = feed_all(Decoder(), pieces(STREAM, cuts))
    assert [(d.raw, d.second) for d in got] == [(d.raw, d.second) for d in Decoder().feed(STREAM)]


@pytest.mark.parametrize("bad", [b"\0", b"LLQ", b"N\xff\xff\xff\xff", b"N\0\0\0\1\xffQ"], ids=repr)
def test_values_before_a_bad_one_come_first_and_then_the_error(bad: bytes) -> None:
    decoder = Decoder()
    assert [d.value for d in decoder.feed(dump(1) + dump("two") + bad + dump(3))] == [1, "two"]
    for _ in range(2):
        with pytest.raises(CorruptEntry):
            decoder.feed(dump(4))
    with pytest.raises(CorruptEntry):
        decoder.check()


def test_a_decoder_that_has_seen_nothing_bad_has_nothing_to_complain_about() -> None:
    decoder = Decoder()
    decoder.feed(dump(1) + b"N\0")
    decoder.check()


def test_empty_chunks_change_nothing() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert [d.value for d in feed_all(decoder, [b"F\0", b"", b"\0\0\1", b"", b"Q", b""])] == [1]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_value_that_ends_early_is_never_a_value(name: str) -> None:
    data = SAMPLES[name]
    for end in range(len(data)):
        with pytest.raises(CorruptEntry, match="not exactly one value"):
            decode(data[:end])


@pytest.mark.parametrize("junk", [b"\0", b"Q", b"L", b"LQ", b"N\xff\xff\xff\xff", b"garbage"])
@pytest.mark.parametrize("name", SAMPLES)
def test_one_value_with_junk_behind_it_is_refused(name: str, junk: bytes) -> None:
    with pytest.raises(CorruptEntry):
        decode(SAMPLES[name] + junk)


@pytest.mark.parametrize("name", ["user", "empty"])
def test_any_other_byte_in_any_place_gives_a_value_or_corrupt_entry(name: str) -> None:
    data = SAMPLES[name]
    for place in range(len(data)):
        for byte in range(256):
            _value_or_corrupt(data[:place] + bytes([byte]) + data[place + 1 :])


def test_a_flipped_bit_in_any_byte_of_a_large_entry_gives_a_value_or_corrupt_entry() -> None:
    data = SAMPLES["upload"]
    for place in range(len(data)):
        for bit in (place % 8, 7):
            _value_or_corrupt(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_give_a_value_or_corrupt_entry(data: bytes) -> None:
    _value_or_corrupt(data)


def test_random_programs_of_opcodes_give_what_devpi_reads_or_corrupt_entry() -> None:
    """Soundness: whatever we accept, devpi's own reader accepts, and reads the same."""
    made = random.Random(20_261_122)  # noqa: S311 - not for secrets
    accepted = sum(_value_or_corrupt(_program(made)) for _ in range(20_000))
    assert accepted > 500, "the programs are too wild to prove anything"


_TOKENS = [
    *(b"L", b"R", b"C", b"J", b"J", b"K\0\0\0\0", b"K\0\0\0\1", b"K\0\0\0\2"),
    *(b"F\0\0\0\0", b"F\0\0\0\1", b"F\xff\xff\xff\xff", b"G\0\0\0\1", b"H\0\0\0\x017", b"I\0\0\0\x02-7"),
    *(b"N\0\0\0\0", b"N\0\0\0\1a", b"S\0\0\0\1b", b"M\0\0\0\1c", b"A\0\0\0\1d"),
    *(b"D" + bytes(8), b"T" + bytes(16), b"P", b"P", b"P"),
    *(kind + bytes([0, 0, 0, count]) for kind in (b"@", b"E", b"O") for count in (0, 1, 2, 3)),
]


def _program(made: random.Random) -> bytes:
    program = b"".join(made.choices(_TOKENS, k=made.randint(1, 6)))
    return program + b"@\0\0\0\2Q" if made.random() < 0.3 else program + b"Q"


def _value_or_corrupt(data: bytes) -> bool:
    decoder = Decoder(SMALL)
    try:
        got = decoder.feed(data)
    except CorruptEntry:
        return False
    assert data.startswith(b"".join(d.raw for d in got))
    for decoded in got:
        assert typed(decoded.value) == typed(load(decoded.raw))
        _check_second(decoded.value, decoded.raw, decoded.second)
    try:
        decoder.check()
    except CorruptEntry:
        return False
    assert len(b"".join(d.raw for d in got)) + decoder.pending == len(data)
    return bool(got)


def _check_second(value: object, raw: bytes, second: int) -> None:
    """Where the second item is a list, and the first is changes, the cut before it must be in place."""
    if isinstance(value, tuple) and len(value) == 2 and type(value[0]) is dict and type(value[1]) is list:
        assert typed(load(raw[:second] + b"K\0\0\0\0@\0\0\0\2Q")) == typed((value[0], []))


@pytest.mark.parametrize("name", entries())
def test_second_is_where_the_list_of_renames_begins(name: str) -> None:
    data = entries()[name]
    decoded = decode(data)
    renames = dump(load(data)[1])[:-1]
    assert data[decoded.second :] == renames + b"@\0\0\0\2Q"


@pytest.mark.parametrize("value", [None, "text", {"a": [1]}, {1, 2}, ({"a": [1]},), {"a": ({}, [1])}])
def test_second_is_negative_where_no_list_is_the_second_item(value: object) -> None:
    assert decode(dump(value)).second == -1


def test_second_counts_from_the_value_and_not_from_the_chunk() -> None:
    entry = entries()["upload"]
    expected = decode(entry).second
    for cut in (1, expected - 1, expected, expected + 3, len(entry) - 1):
        (_, decoded) = feed_all(Decoder(), [dump(7) + entry[:cut], entry[cut:]])
        assert decoded.second == expected
