"""What is read of entries, and reading ahead."""

import threading
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from threading import Event

import pytest

from replisync.devpi.wire import encode
from replisync.errors import LocalFailure
from replisync.system.prefetch import Prefetch
from replisync.verify.checks.entries import read_all
from replisync.verify.checks.parallel import ahead
from tests.support.waiting import wait_until

FILE = {"last_modified": "x", "hashes": {"sha256": "ab"}, "hash_spec": "sha256=ab"}


def stored(*changes: tuple[str, str, int, object]) -> bytes:
    return encode(({key: (name, back, value) for key, name, back, value in changes}, []))


ENTRIES = [
    (0, stored(("root/.config", "USER", -1, {"é": ("x", None)}))),
    (1, stored(("a/b/+f/1/x", "STAGEFILE", -1, FILE), ("a/b/p/.config", "PROJECT", 0, b"\x00"))),
    (2, b"nothing"),
    (3, b""),
    (5, encode(({}, ["a/b/+f/1/x"]))),
    (7, stored(("../x", "STAGEFILE", 3, FILE))),
]


def test_what_cannot_be_read_is_said_beside_what_can() -> None:
    expected = read_all(ENTRIES)
    assert [(serial, why is None) for serial, why, _ in expected] == [
        *((0, True), (1, True), (2, False), (3, False), (5, False), (7, True)),
    ]
    assert expected[1][2] == [
        ("a/b/+f/1/x", "STAGEFILE", -1, "sha256=ab"),
        ("a/b/p/.config", "PROJECT", 0, None),
    ]


def test_results_come_in_the_order_of_the_items_and_few_are_begun_ahead() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            begun.append(number)
            yield number

    found = [(item, result, len(begun)) for item, result in ahead(items(), lambda one: -one, 2)]
    assert [pair[:2] for pair in found] == [(number, -number) for number in range(30)]
    assert found[0][2] == 7


class TestPrefetch:
    """Items that a thread reads ahead."""

    def test_all_come_in_their_order(self) -> None:
        with Prefetch(range(1000), most=3) as ahead:
            assert list(ahead) == list(range(1000))

    @pytest.mark.parametrize(("weight", "held"), [(1, 5), (11, 1), (4, 2)])
    def test_no_more_is_held_than_may_be_at_a_time(self, weight: int, held: int) -> None:
        begun: list[int] = []

        def items() -> Iterator[int]:
            for _ in range(20):
                begun.append(weight)
                yield weight

        def has_begun(count: int) -> bool:
            return len(begun) >= count

        with Prefetch(items(), most=5, weight=lambda one: one, heaviest=10) as ahead:
            wait_until(lambda: len(begun) == held + 1, 20, "the thread reads as far as it may")
            for taken, _ in enumerate(ahead, 1):
                wait_until(partial(has_begun, min(20, held + taken)), 20, "it reads on")
                assert len(begun) <= held + 1 + taken

    def test_what_reading_them_raises_comes_behind_the_last_one(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise LocalFailure("cannot read x", "the disk is full")

        found: list[int | None] = []
        with Prefetch(items(), most=3) as ahead, pytest.raises(LocalFailure, match="the disk is full"):
            found.extend(ahead)
        assert found == [1]

    def test_a_reader_whose_items_are_no_longer_wanted_ends(self) -> None:
        before = set(threading.enumerate())
        with Prefetch(repeat(1), most=3) as ahead:
            assert next(iter(ahead)) == 1
        assert set(threading.enumerate()) <= before

    def test_while_nothing_arrives_none_is_yielded(self) -> None:
        go = Event()

        def items() -> Iterator[int]:
            go.wait(20)
            yield 1

        with Prefetch(items(), most=3, pause=0.01) as ahead:
            found = iter(ahead)
            assert next(found) is None
            go.set()
            assert next(one for one in found if one is not None) == 1
