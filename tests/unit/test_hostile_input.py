"""What the fuzzer checks, without the fuzzer: what it has found, damaged entries, and made-up bytes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import TARGETS, check, corpus
from tests.unit.samples import dump, entries, load


@pytest.mark.parametrize("data", corpus(), ids=lambda data: data[:24].hex())
def test_what_is_kept_is_an_entry_or_corrupt(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize("kind", range(len(TARGETS)), ids=[target.__name__ for target in TARGETS])
@pytest.mark.parametrize("name", entries())
def test_an_entry_with_a_damaged_byte_is_an_entry_or_corrupt(name: str, kind: int) -> None:
    """Each of a hundred damages, in each framing."""
    raw = entries()[name]
    framed = {2: dump(3) + raw + dump(4) + raw, 3: dump([(3, load(raw)[0])])}.get(kind, raw)
    chance = random.Random(name)  # noqa: S311 - not for secrets
    check(bytes([kind]) + framed)
    for _ in range(100):
        damaged = bytearray(framed)
        damaged[chance.randrange(len(damaged))] = chance.choice(b"@ACDEFGHIJKLMNOPQRST\0\1\xff")
        check(bytes([kind]) + bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_corrupt(data: bytes) -> None:
    for kind in range(len(TARGETS)):
        check(bytes([kind]) + data)
