"""Entries that processes of their own read are those that are read here."""

import marshal
from collections.abc import Iterator
from pathlib import Path

import pytest

from replisync.errors import LocalFailure
from replisync.verify import history
from replisync.verify.ahead import ahead
from replisync.verify.entries import read_all
from replisync.wire import encode
from replisync.workers import Workers

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


def test_what_a_process_reads_of_entries_is_what_is_read_here() -> None:
    expected = read_all(ENTRIES)
    assert [(serial, why is None) for serial, why, _ in expected] == [
        *((0, True), (1, True), (2, False), (3, False), (5, False), (7, True)),
    ]
    assert expected[1][2] == [
        ("a/b/+f/1/x", "STAGEFILE", -1, "sha256=ab"),
        ("a/b/p/.config", "PROJECT", 0, None),
    ]
    with Workers("reading", Path(history.__file__).with_name("reader.py"), (), 2) as workers:
        for _ in range(3):
            assert marshal.loads(workers.ask(marshal.dumps(ENTRIES))) == expected  # noqa: S302


def test_a_process_that_ends_while_it_reads_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.stdin.buffer.read(4); sys.stdout.buffer.write(b'\\0\\0')")
    with (
        Workers("reading of the history", program, (), 1) as workers,
        pytest.raises(LocalFailure, match="reading of the history failed: a process that does it ended"),
    ):
        workers.ask(b"12")


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_is_read_ahead_than_may_be_held(threads: int) -> None:
    begun: list[int] = []

    def items(weights: list[int]) -> list[tuple[int, int, int]]:
        begun.clear()

        def given() -> Iterator[int]:
            for weight in weights:
                begun.append(weight)
                yield weight

        return [
            (item, result, len(begun))
            for item, result in ahead(given(), lambda one: -one, threads, weight=lambda one: one, most=10)
        ]

    light = items([1] * 30)
    assert [pair[:2] for pair in light] == [(1, -1)] * 30
    assert light[0][2] == 3 * threads + 1
    assert [one[2] for one in items([11] * 5)] == [1, 2, 3, 4, 5]
    assert items([4, 4, 4, 4])[0][2] == 3
