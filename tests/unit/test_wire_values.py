"""The codec against devpi's own: the same values from the same bytes, and the other way round."""

import struct

import pytest
from hypothesis import given, settings

from replisync.devpi.wire import decode, encode
from replisync.errors import CorruptEntry
from tests.unit.samples import dump, entries, load, typed, values


@given(values)
@settings(max_examples=150)
def test_encode_writes_what_devpi_writes(value: object) -> None:
    assert encode(value) == dump(value)


@given(values)
@settings(max_examples=150)
def test_decode_reads_what_devpi_reads(value: object) -> None:
    data = dump(value)
    assert typed(decode(data).value) == typed(load(data))


@given(values)
@settings(max_examples=150)
def test_decode_undoes_encode(value: object) -> None:
    decoded = decode(encode(value))
    assert typed(decoded.value) == typed(value)
    assert decoded.raw == encode(value)


@pytest.mark.parametrize("name", entries())
def test_real_entries_are_read_as_devpi_reads_them(name: str) -> None:
    data = entries()[name]
    assert typed(decode(data).value) == typed(load(data))
    assert decode(data).raw == data


def test_not_a_number_keeps_its_bits() -> None:
    nan = struct.unpack(">d", b"\x7f\xf8\0\0\0\0\0\x2a")[0]
    assert decode(encode(nan)).raw == dump(nan)
    assert typed(decode(encode(nan)).value) == typed(nan)


@pytest.mark.parametrize("value", [2**31 - 1, 2**31, -(2**31), 10**40, -1, 0])
def test_numbers_at_the_edges_of_their_opcodes_come_back(value: int) -> None:
    assert encode(value) == dump(value)
    assert decode(encode(value)).value == value


@pytest.mark.parametrize("number", ["0", "7", "-7", "2147483648", "-2147483649", "1" + "0" * 4000])
@pytest.mark.parametrize("opcode", [b"H", b"I"])
def test_numbers_as_text_are_read(opcode: bytes, number: str) -> None:
    data = opcode + struct.pack(">i", len(number)) + number.encode() + b"Q"
    assert decode(data).value == int(number)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"M\0\0\0\3a\xffbQ", b"a\xffb"),
        (b"S\0\0\0\2\xc3\xa9Q", "é"),
        (b"G\xff\xff\xff\xfeQ", -2),
        (b"I\0\0\0\x0212Q", 12),
        (b"JS\0\0\0\1aS\0\0\0\1bPQ", {"a": "b"}),
        (b"JM\0\0\0\1aM\0\0\0\1bPQ", {b"a": b"b"}),
        (b"S\0\0\0\1aN\0\0\0\1b@\0\0\0\2Q", ("a", "b")),
    ],
    ids=["str", "unicode", "long", "longlong", "unicode dict", "str dict", "mixed"],
)
def test_what_servers_under_python_2_wrote_is_read_as_devpi_reads_it(data: bytes, value: object) -> None:
    assert typed(decode(data).value) == typed(value) == typed(load(data))


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", {"a": object()}, bytearray(b"x"), range(3), -(2**31) - 1, [1, {2: (object(),)}]],
    ids=["object", "surrogate", "object in a dict", "bytearray", "range", "too small", "object in a tuple"],
)
def test_what_the_format_cannot_express_is_refused(value: object) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any of its kinds
        encode(value)
    assert str(caught.value)


def test_a_value_that_is_nested_beyond_all_measure_is_refused_by_encode() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        encode(value)


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(b"@ACDEFGHIJKLMNOPQRST")))
def test_an_unknown_opcode_is_refused(opcode: int) -> None:
    with pytest.raises(CorruptEntry, match="unknown opcode"):
        decode(bytes([opcode]) + b"\0" * 8)
