"""The three framings of devpi's changelog, and what is stored of an entry."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replisync.devpi.entries import (
    EMPTY_ENTRY,
    EMPTY_RENAMES,
    KeyChange,
    StreamParser,
    digest,
    parse_batch,
    parse_stored,
    same_entry,
)
from replisync.devpi.wire import UNREAD
from replisync.errors import BrokenStream, CorruptEntry
from tests.unit.samples import RENAMES, SMALL, changes, dump, entries, load, pieces, typed, upload


def stream(*raws: bytes, first: int = 0) -> bytes:
    """Return what the streaming endpoint sends for entries."""
    return b"".join(dump(serial) + raw for serial, raw in enumerate(raws, first))


def plain(made: Mapping[str, KeyChange]) -> dict[str, tuple[str, int, Any]]:
    """Return changes without their names, as they were sent."""
    return {path: (change.keyname, change.back_serial, change.value) for path, change in made.items()}


RAWS = list(entries().values())


class TestStoredBytes:
    """What is stored: the primary's own bytes of the changes, without the list of renames."""

    @pytest.mark.parametrize("name", entries())
    def test_the_list_of_renames_is_empty_and_every_other_byte_as_it_was(self, name: str) -> None:
        raw = entries()[name]
        entry = parse_stored(7, raw)
        assert entry.serial == 7
        assert typed(load(entry.data)) == typed((load(raw)[0], []))
        assert entry.data[: -len(EMPTY_RENAMES)] == raw[: len(entry.data) - len(EMPTY_RENAMES)]

    @given(changes, st.lists(st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=2), max_size=3))
    @settings(max_examples=150)
    def test_they_are_what_devpi_writes_for_the_changes_alone(
        self, made: dict[str, Any], renames: list[object]
    ) -> None:
        entry = parse_stored(0, dump((made, renames)))
        assert entry.data == dump((made, []))
        assert typed(plain(entry.changes)) == typed(load(dump(made)))

    @given(changes)
    @settings(max_examples=50)
    def test_storing_them_once_more_changes_nothing(self, made: dict[str, Any]) -> None:
        once = parse_stored(0, dump((made, RENAMES)))
        assert parse_stored(0, once.data) == once

    def test_the_empty_entry_is_the_one_that_devpi_makes_up_for_holes(self) -> None:
        assert dump(({}, [])) == EMPTY_ENTRY
        assert parse_stored(3, EMPTY_ENTRY).data == EMPTY_ENTRY
        assert parse_stored(3, dump(({}, ["+files/a"]))).data == EMPTY_ENTRY

    def test_changes_come_with_names(self) -> None:
        entry = parse_stored(4, dump(({"a/.config": ("USER", 2, {"x": 1})}, [])))
        assert entry.changes == {"a/.config": KeyChange("USER", 2, {"x": 1})}

    def test_the_digest_is_over_the_stored_bytes(self) -> None:
        data = parse_stored(0, dump(({}, RENAMES))).data
        assert digest(data) == digest(EMPTY_ENTRY) != digest(dump(({}, RENAMES)))


NO_ENTRIES = {
    "nothing": b"",
    "a number": dump(5),
    "a mapping alone": dump({}),
    "a list": dump([{}, []]),
    "one item": dump(({},)),
    "three items": dump(({}, [], [])),
    "changes that are a list": dump(([], [])),
    "renames that are a tuple": dump(({}, ())),
    "renames that are None": dump(({}, None)),
    "a relpath of bytes": dump(({b"a": ("USER", 1, None)}, [])),
    "a relpath that is a number": dump(({1: ("USER", 1, None)}, [])),
    "a change of two": dump(({"a": ("USER", 1)}, [])),
    "a change of four": dump(({"a": ("USER", 1, None, None)}, [])),
    "a change that is a list": dump(({"a": ["USER", 1, None]}, [])),
    "a keyname of bytes": dump(({"a": (b"USER", 1, None)}, [])),
    "a back serial that is text": dump(({"a": ("USER", "1", None)}, [])),
    "a back serial that is a boolean": dump(({"a": ("USER", True, None)}, [])),
    "a back serial that is no whole number": dump(({"a": ("USER", 1.0, None)}, [])),
    "junk behind it": dump(({}, [])) + b"L",
    "a second one behind it": dump(({}, [])) * 2,
    "half of it": dump((upload(), []))[:-9],
}


# What a stream that goes on could still complete.
UNFINISHED = ("nothing", "half of it", "junk behind it")


@pytest.mark.parametrize("name", NO_ENTRIES)
def test_what_is_no_entry_is_refused_with_its_serial(name: str) -> None:
    with pytest.raises(CorruptEntry) as caught:
        parse_stored(41, NO_ENTRIES[name])
    assert caught.value.serial == 41
    assert "at serial 41" in str(caught.value)


class TestSameEntry:
    """Equal bytes are equal entries; where they differ the values decide."""

    def test_the_order_of_a_set_does_not_matter(self) -> None:
        ours = b"N\0\0\0\1aN\0\0\0\1bO\0\0\0\2"
        theirs = b"N\0\0\0\1bN\0\0\0\1aO\0\0\0\2"
        head, tail = b"JN\0\0\0\1kN\0\0\0\1nF\0\0\0\1", b"@\0\0\0\3P" + EMPTY_RENAMES
        assert head + ours + tail != head + theirs + tail
        assert same_entry(head + ours + tail, head + theirs + tail)

    def test_another_value_is_another_entry(self) -> None:
        assert not same_entry(dump(({"a": ("N", 1, 1)}, [])), dump(({"a": ("N", 1, 2)}, [])))

    def test_another_back_serial_is_another_entry(self) -> None:
        assert not same_entry(dump(({"a": ("N", 1, 1)}, [])), dump(({"a": ("N", 2, 1)}, [])))

    def test_one_change_more_is_another_entry(self) -> None:
        assert not same_entry(EMPTY_ENTRY, dump(({"a": ("N", 1, None)}, [])))

    def test_values_that_are_nested_beyond_all_measure_end_in_an_answer(self) -> None:
        deep = b"K\0\0\0\1F\0\0\0\0" * 50_000 + b"L" + b"P" * 50_000
        head, tail = b"JN\0\0\0\1kN\0\0\0\1nF\0\0\0\1", b"@\0\0\0\3P" + EMPTY_RENAMES
        other = b"JN\0\0\0\1kN\0\0\0\1nG\0\0\0\1"
        assert same_entry(head + deep + tail, head + deep + tail)
        assert not same_entry(head + deep + tail, other + deep + tail)


class TestStreaming:
    """The framing since devpi-server 6.5.0: serial, entry, serial, entry."""

    @given(st.lists(st.integers(0, 2**16), max_size=20), st.integers(0, 2**31 + 5))
    @settings(max_examples=60)
    def test_entries_come_out_in_order_however_they_are_cut(self, cuts: list[int], first: int) -> None:
        parser = StreamParser(first)
        got = [e for piece in pieces(stream(*RAWS, first=first), cuts) for e in parser.feed(piece)]
        parser.finish()
        assert got == [parse_stored(serial, raw) for serial, raw in enumerate(RAWS, first)]

    def test_an_answer_without_entries_is_complete(self) -> None:
        parser = StreamParser(9)
        assert parser.feed(b"") == []
        parser.finish()

    def test_wherever_the_answer_ends_whole_entries_are_delivered_and_nothing_of_the_last(self) -> None:
        data = stream(*RAWS)
        ends = [len(stream(*RAWS[:count])) for count in range(len(RAWS) + 1)]
        for cut in range(len(data) + 1):
            parser = StreamParser(0)
            got = parser.feed(data[:cut])
            complete = sum(end <= cut for end in ends) - 1
            assert [entry.serial for entry in got] == list(range(complete))
            if cut in ends:
                parser.finish()
                continue
            with pytest.raises(BrokenStream) as caught:
                parser.finish()
            assert caught.value.serial == complete
            assert caught.value.transient

    @pytest.mark.parametrize(("came", "due"), [(6, 5), (4, 5), (0, 5), (-1, 0), (2**40, 5)])
    def test_a_serial_that_is_not_the_next_one_is_refused(self, came: int, due: int) -> None:
        parser = StreamParser(due)
        with pytest.raises(CorruptEntry, match=f"serial {came} came instead") as caught:
            parser.feed(dump(came) + EMPTY_ENTRY)
        assert caught.value.serial == due

    def test_an_emptied_row_is_named(self) -> None:
        parser = StreamParser(5)
        with pytest.raises(CorruptEntry, match="the row in the primary's changelog is empty") as caught:
            parser.feed(dump(5) + dump(6) + EMPTY_ENTRY)
        assert caught.value.serial == 5

    @pytest.mark.parametrize("value", [None, "5", 5.0, True, ({}, []), {}], ids=repr)
    def test_an_entry_without_its_serial_is_refused(self, value: object) -> None:
        with pytest.raises(CorruptEntry, match="the entry has no serial"):
            StreamParser(5).feed(dump(value) + EMPTY_ENTRY)

    @pytest.mark.parametrize("name", [name for name in NO_ENTRIES if name not in UNFINISHED])
    def test_entries_before_a_bad_one_are_delivered_and_then_the_error_names_the_bad_one(
        self, name: str
    ) -> None:
        parser = StreamParser(5)
        got = parser.feed(stream(*RAWS[:2], NO_ENTRIES[name], first=5))
        due = 8 if name == "a second one behind it" else 7
        assert [entry.serial for entry in got] == list(range(5, due))
        for act in (lambda: parser.feed(stream(EMPTY_ENTRY, first=due)), parser.finish):
            with pytest.raises(CorruptEntry) as caught:
                act()
            assert caught.value.serial == due

    def test_garbage_is_refused_with_the_serial_that_was_due(self) -> None:
        parser = StreamParser(5)
        assert len(parser.feed(stream(*RAWS[:2], first=5) + b"\xde\xad")) == 2
        with pytest.raises(CorruptEntry) as caught:
            parser.finish()
        assert caught.value.serial == 7

    def test_an_entry_beyond_the_limits_is_refused(self) -> None:
        large = dump(({"a": ("N", 1, "x" * SMALL.entry_bytes)}, []))
        parser = StreamParser(4, SMALL)
        assert parser.feed(stream(large, first=4)) == []
        with pytest.raises(CorruptEntry, match="more than") as caught:
            parser.finish()
        assert caught.value.serial == 4

    def test_values_of_kinds_that_were_not_asked_for_are_not_built(self) -> None:
        (entry,) = StreamParser(0, kinds=frozenset({"USER"})).feed(stream(entries()["upload"]))
        assert entry.data == parse_stored(0, entries()["upload"]).data
        assert entry.changes["root/.config"] == KeyChange(*upload()["root/.config"])
        assert entry.changes["root/dev/.projects"] == KeyChange("PROJNAMES", 2, UNREAD)


class TestBatches:
    """The framing since 4.9.0: a list of (serial, changes), decoded and encoded again by the server."""

    def test_entries_are_the_ones_that_a_stream_gives(self) -> None:
        body = dump([(serial, load(raw)[0]) for serial, raw in enumerate(RAWS, 3)])
        got = list(parse_batch(body, 3))
        assert [entry.serial for entry in got] == [3, 4, 5, 6, 7]
        for entry, raw in zip(got, RAWS, strict=True):
            stored = parse_stored(entry.serial, raw)
            assert same_entry(entry.data, stored.data)
            assert typed(plain(entry.changes)) == typed(plain(stored.changes))

    @given(changes)
    @settings(max_examples=80)
    def test_what_is_stored_is_what_devpi_would_write(self, made: dict[str, Any]) -> None:
        (entry,) = list(parse_batch(dump([(0, made)]), 0))
        assert typed(load(entry.data)) == typed((load(dump(made)), []))
        assert parse_stored(0, entry.data).data == entry.data

    def test_no_entries_are_an_answer(self) -> None:
        assert list(parse_batch(dump([]), 5)) == []

    @pytest.mark.parametrize(
        ("batch", "due"),
        [
            ([(6, {}), (7, {})], 5),
            ([(4, {}), (5, {})], 5),
            ([(5, {}), (7, {})], 6),
            ([(5, {}), (5, {})], 6),
            ([(5, {}), 6], 6),
            ([(5, {}), None], 6),
            ([(5, {}), [6, {}]], 6),
            ([(5, {}), (6, {}, [])], 6),
            ([(5, {}), ("6", {})], 6),
            ([(5, {}), (6, [])], 6),
            ([(5, {}), (6, {"a": None})], 6),
            ((), 5),
            ({}, 5),
            (None, 5),
        ],
        ids=repr,
    )
    def test_an_answer_that_does_not_begin_or_go_on_as_asked_is_refused(
        self, batch: object, due: int
    ) -> None:
        entries_of = parse_batch(dump(batch), 5)
        for serial in range(5, due):
            assert next(entries_of).serial == serial
        with pytest.raises(CorruptEntry) as caught:
            next(entries_of)
        assert caught.value.serial == due

    @pytest.mark.parametrize("cut", [0, 1, 10, -1])
    def test_an_answer_that_ends_early_is_refused(self, cut: int) -> None:
        with pytest.raises(CorruptEntry):
            list(parse_batch(dump([(5, load(RAWS[3])[0])])[:cut], 5))

    def test_a_value_that_is_nested_beyond_all_measure_is_refused(self) -> None:
        deep = b"K\0\0\0\1F\0\0\0\0" * 50_000 + b"L" + b"P" * 50_000
        change = b"JN\0\0\0\1kN\0\0\0\1nF\0\0\0\1" + deep + b"@\0\0\0\3P"
        with pytest.raises(CorruptEntry, match="nested too deeply"):
            list(parse_batch(b"K\0\0\0\1F\0\0\0\0F\0\0\0\5" + change + b"@\0\0\0\2PQ", 5))
