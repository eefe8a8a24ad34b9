"""What arrives may be hostile: memory and work stay in proportion to what was sent."""

import struct
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pytest

from replisync.devpi.wire import Decoder, Limits, decode
from replisync.errors import CorruptEntry
from tests.unit.samples import SMALL, dump, feed_all

MIB = 1024 * 1024


def length(opcode: str, number: int) -> bytes:
    """Return an opcode with a length, which may be one that devpi would read as negative."""
    return opcode.encode() + struct.pack(">I", number)


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**32 - 1, 2**30, SMALL.entry_bytes + 1])
@pytest.mark.parametrize("opcode", list("@AEHIKMNOS"))
def test_a_length_beyond_the_limit_or_below_zero_is_refused_at_once(opcode: str, number: int) -> None:
    with pytest.raises(CorruptEntry):
        Decoder(SMALL).feed(length(opcode, number))


@pytest.mark.parametrize("opcode", list("@EO"))
def test_a_fold_takes_no_more_than_there_is(opcode: str) -> None:
    with pytest.raises(CorruptEntry, match=r"without a container|of 5 items where there are 2"):
        decode(b"LL" + length(opcode, 5) + b"Q")


def test_lists_may_not_announce_more_than_can_come() -> None:
    with pytest.raises(CorruptEntry, match="more than"):
        Decoder(SMALL).feed(length("K", SMALL.entry_bytes // 8) * 3)


@pytest.mark.parametrize(
    "token",
    [
        b"J",
        b"JLLP",
        b"O\0\0\0\0",
        b"LO\0\0\0\1",
        b"LE\0\0\0\1",
        b"L@\0\0\0\1",
        b"K\0\0\0\0",
        b"N\0\0\0\2ab",
        b"L",
    ],
)
def test_memory_is_a_small_multiple_of_the_limit(token: bytes) -> None:
    limit = MIB // 8
    data = token * (limit // len(token) - 1)
    tracemalloc.start()
    try:
        Decoder(Limits(limit)).feed(data)
    except CorruptEntry:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * limit


def test_a_list_that_is_announced_and_never_comes_costs_no_more_than_the_limit() -> None:
    limit = MIB
    tracemalloc.start()
    with pytest.raises(CorruptEntry):
        Decoder(Limits(limit)).feed(length("K", limit // 7) * 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * limit


def nested(opcode: str, depth: int) -> bytes:
    """Return a value that is nested so deeply: tuples and frozensets of one item."""
    return b"L" + length(opcode, 1) * depth


@pytest.mark.parametrize("use", ["member", "frozen member", "key", "item of a key"])
def test_a_tuple_that_is_nested_too_deeply_to_be_hashed_is_refused(use: str) -> None:
    deep = nested("@", 50_000)
    data = {
        "member": deep + length("O", 1),
        "frozen member": deep + length("E", 1),
        "key": b"J" + deep + b"LP",
        "item of a key": b"J" + deep + b"L" + length("@", 2) + b"LP",
    }[use]
    with pytest.raises(CorruptEntry, match="nested too deeply"):
        decode(data + b"Q")


def test_tuples_that_are_nested_as_devpi_may_nest_them_can_be_keys() -> None:
    key = ((((1, "a"),), 2), (3, (4, (5,))))
    assert decode(dump({key: {key}})).value == {key: {key}}


def test_frozensets_in_frozensets_are_hashed_one_by_one_however_deep() -> None:
    value = decode(nested("E", 2_000) + b"Q").value
    depth = 0
    while value and None not in value:
        (value,) = value
        depth += 1
    assert depth == 1_999


@pytest.mark.parametrize("shape", ["list", "dict", "tuple"])
def test_a_value_of_any_depth_is_a_value_or_corrupt_and_can_be_let_go(shape: str) -> None:
    depth = 200_000
    data = {
        "list": b"K\0\0\0\1F\0\0\0\0" * depth + b"L" + b"P" * depth,
        "dict": b"JN\0\0\0\1a" * depth + b"L" + b"P" * depth,
        "tuple": nested("@", depth),
    }[shape]
    decoded = decode(data + b"Q")
    assert decoded.raw == data + b"Q"
    del decoded


@pytest.mark.parametrize(
    "data",
    [
        *(b"P", b"LP", b"LLP", b"JLP", b"LLLP", b"NN", b"J\0", b"Q", b"LLQ", b"JJLPQ", b"JK\0\0\0\0LPQ"),
        b"K\0\0\0\1F\0\0\0\1LPQ",
        b"K\0\0\0\1F\xff\xff\xff\xfeLPQ",
        b"K\0\0\0\1N\0\0\0\1aLPQ",
        b"N\0\0\0\1\xffQ",
        b"JN\0\0\0\1aN\0\0\0\1\xffPQ",
        b"JN\0\0\0\1\xffN\0\0\0\1aPQ",
        b"LF\0\0\0\0LPQ",
        b"N\0\0\0\1aF\0\0\0\0LPQ",
        b"L@\0\0\0\1F\0\0\0\0LPQ",
        b"JO\0\0\0\1Q",
        b"B\0\0\0\0Q",
    ],
    ids=repr,
)
def test_programs_that_make_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptEntry):
        decode(data)


@pytest.mark.parametrize(
    "text", ["", "+1", " 1", "1 ", "1_0", "01", "-0", "0x1", "١", "1.0", "--1", "9" * 5000]
)
@pytest.mark.parametrize("opcode", list("HI"))
def test_a_number_as_text_must_be_written_as_devpi_writes_numbers(opcode: str, text: str) -> None:
    with pytest.raises(CorruptEntry):
        decode(length(opcode, len(text.encode())) + text.encode() + b"Q")


def sized(size: int) -> bytes:
    """Return a value of exactly so many bytes."""
    return dump("x" * (size - 6))


@pytest.mark.parametrize("chunk", [1, 7, 4096, 10**9])
def test_a_value_may_be_as_long_as_the_limit_and_no_longer(chunk: int) -> None:
    limit = SMALL.entry_bytes
    fits, is_too_long = sized(limit), sized(limit + 1)
    cut = [fits[start : start + chunk] for start in range(0, limit, chunk)]
    assert [d.raw for d in feed_all(Decoder(SMALL), cut)] == [fits]
    with pytest.raises(CorruptEntry, match=f"more than {limit} bytes"):
        feed_all(Decoder(SMALL), [is_too_long[start : start + chunk] for start in range(0, limit + 1, chunk)])


@pytest.mark.parametrize("token", [b"L", b"F\0\0\0\1", b"N\0\0\0\2ab", b"A\0\0\0\1x", b"D12345678", b"JLLP"])
def test_a_value_that_outgrows_the_limit_in_small_pieces_is_stopped_there(token: bytes) -> None:
    decoder = Decoder(SMALL)
    fitting = SMALL.entry_bytes // len(token)
    with pytest.raises(CorruptEntry, match="more than"):
        feed_all(decoder, [token] * (fitting + 1))


def test_the_limit_is_for_each_value_and_not_for_the_stream() -> None:
    one = sized(SMALL.entry_bytes // 2)
    assert len(Decoder(SMALL).feed(one * 9)) == 9


def work_of(job: Callable[[], object]) -> Counter[str]:
    """Count the calls of built-in functions that a job makes, by their names."""
    calls: Counter[str] = Counter()

    def count(_frame: object, event: str, called: object) -> None:
        if event == "c_call":
            calls[getattr(called, "__name__", "")] += 1

    sys.setprofile(count)
    try:
        job()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", ["text", "bytes", "value in a dict", "key", "number"])
def test_a_large_string_in_many_chunks_is_joined_a_fixed_number_of_times(kind: str) -> None:
    text = "x" * (4000 if kind == "number" else 200_000)
    value = {
        "text": text,
        "bytes": text.encode(),
        "value in a dict": {"key": text},
        "key": {text: "value"},
        "number": int("7" * 4000),
    }[kind]
    data = dump(value)
    size = 2 if kind == "number" else 100
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    decoder = Decoder()
    calls = work_of(lambda: feed_all(decoder, chunks))
    assert len(chunks) > 1_900
    assert calls["join"] < 20
    assert (
        calls["python"] < len(chunks) + 60
    )  # each chunk is a call of feed; the decoding itself is not repeated


def test_what_was_decoded_is_not_decoded_again_however_small_the_chunks() -> None:
    """Twice as many values in as many more chunks cost twice the work, not four times."""

    def work(items: int) -> int:
        data = dump([{"name": "é" * 5, "n": number, "t": (1, 2.5, None)} for number in range(items)])
        chunks = [data[start : start + 3] for start in range(0, len(data), 3)]
        return work_of(lambda: feed_all(Decoder(), chunks)).total()

    assert work(400) < 2.2 * work(200)


def test_bytes_beyond_the_current_token_are_not_kept_twice() -> None:
    data = dump(["x" * 1000] * 1000)
    decoder = Decoder()
    for start in range(0, len(data) - 1, 1000):
        decoder.feed(data[start : min(start + 1000, len(data) - 1)])
    assert decoder.pending == len(data) - 1
