"""From entries to batches: the state after the last entry, within bounds, never held back."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replisync.changelog.plan import Batch, BatchLimits, WantedFile, batches, wanted_file
from replisync.devpi.entries import ChangelogEntry, KeyChange
from replisync.devpi.keys import Digest

A, B, E = "u/dev/+f/abc/def/a.zip", "u/dev/+f/123/456/b.zip", "u/pypi/+e/x_y/e.zip"


def file(digest: str = "a" * 64) -> dict[str, Any]:
    """Return the value of a file that exists."""
    return {"last_modified": "now", "hash_spec": f"sha256={digest}"}


def entry(serial: int, changes: dict[str, Any] | None = None, *, size: int = 10) -> ChangelogEntry:
    """Return an entry of so many bytes that gives file keys values."""
    named = {path: KeyChange("STAGEFILE", -1, value) for path, value in (changes or {}).items()}
    return ChangelogEntry(serial, named, b"x" * size)


def applied(*entries: ChangelogEntry) -> Batch:
    """Return the batch of some entries."""
    batch = Batch(entries[0].serial, entries[0].serial)
    for one in entries:
        batch.add(one)
    return batch


class TestBatch:
    """A batch has the state after its last entry."""

    def test_a_file_that_is_set_is_wanted_with_its_serial_and_digest(self) -> None:
        batch = applied(entry(4, {A: file()}))
        assert batch.wanted == {A: WantedFile(A, 4, Digest("sha256", "a" * 64))}
        assert batch.dropped == {}

    def test_a_file_that_is_set_and_then_deleted_is_dropped_and_not_wanted(self) -> None:
        batch = applied(entry(4, {A: file()}), entry(5, {A: None}))
        assert batch.wanted == {}
        assert batch.dropped == {A: 5}

    def test_a_file_that_is_deleted_and_then_set_again_is_wanted_and_not_dropped(self) -> None:
        batch = applied(entry(4, {A: None}), entry(5, {A: file()}))
        assert list(batch.wanted) == [A]
        assert batch.wanted[A].serial == 5
        assert batch.dropped == {}

    def test_of_a_file_that_is_set_twice_the_last_content_is_wanted(self) -> None:
        batch = applied(entry(4, {A: file("a" * 64)}), entry(5, {A: file("b" * 64)}))
        assert batch.wanted[A] == WantedFile(A, 5, Digest("sha256", "b" * 64))

    @pytest.mark.parametrize("value", [None, {}, {"url": "x"}, {"last_modified": None}])
    def test_a_file_key_without_a_file_is_dropped(self, value: object) -> None:
        batch = applied(entry(4, {A: value}))
        assert batch.wanted == {}
        assert batch.dropped == {A: 4}

    def test_a_key_that_changes_often_is_written_once_with_its_last_serial(self) -> None:
        batch = applied(*(entry(serial, {A: file(), B: None}) for serial in range(4, 9)))
        assert batch.keys == {A: ("STAGEFILE", 8), B: ("STAGEFILE", 8)}
        assert [serial for serial, _ in batch.rows] == [4, 5, 6, 7, 8]

    def test_serials_rows_and_size_are_those_of_the_entries(self) -> None:
        batch = applied(entry(4, size=10), entry(5, size=20), entry(6, size=0))
        assert (batch.first, batch.last, batch.size) == (4, 6, 30)
        assert batch.rows == [(4, b"x" * 10), (5, b"x" * 20), (6, b"")]

    def test_only_keys_of_files_have_files(self) -> None:
        changes = {A: KeyChange("PROJVERSION", 1, file()), E: KeyChange("PYPIFILE_NOMD5", 1, file())}
        batch = applied(ChangelogEntry(4, changes, b""))
        assert list(batch.wanted) == [E]
        assert batch.dropped == {}
        assert set(batch.keys) == {A, E}

    def test_users_are_kept_for_the_types_of_their_indexes(self) -> None:
        first = ChangelogEntry(4, {"u/.config": KeyChange("USER", 1, {"indexes": {}})}, b"")
        second = ChangelogEntry(5, {"u/.config": KeyChange("USER", 4, None)}, b"")
        assert applied(first).users == {"u/.config": {"indexes": {}}}
        assert applied(first, second).users == {"u/.config": None}

    def test_kinds_of_keys_that_nobody_knows_are_written_too(self) -> None:
        batch = applied(ChangelogEntry(4, {"x": KeyChange("PLUGIN", 1, {"last_modified": 1})}, b""))
        assert batch.keys == {"x": ("PLUGIN", 4)}
        assert batch.wanted == {}


_values = st.sampled_from([None, {}, {"url": "x"}, file("a" * 64), file("b" * 64), {"last_modified": "now"}])
_changes = st.dictionaries(
    st.sampled_from([A, B, E, "u/.config", "plugin"]),
    st.tuples(st.sampled_from(["STAGEFILE", "PYPIFILE_NOMD5", "USER", "PLUGIN"]), st.just(-1), _values),
    max_size=4,
)
# A relpath belongs to one kind of key for ever.
_KINDS = {A: "STAGEFILE", B: "STAGEFILE", E: "PYPIFILE_NOMD5", "u/.config": "USER", "plugin": "PLUGIN"}


def _history(values: list[dict[str, Any]], first: int) -> list[ChangelogEntry]:
    return [
        ChangelogEntry(
            serial,
            {path: KeyChange(_KINDS[path], -1, change[2]) for path, change in changes.items()},
            f"entry {serial}".encode(),
        )
        for serial, changes in enumerate(values, first)
    ]


@given(st.lists(_changes, min_size=1, max_size=12), st.integers(0, 5), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=150)
def test_batches_end_where_a_naive_replay_ends(
    made: list[dict[str, Any]], first: int, entries: int, files: int
) -> None:
    history = _history(made, first)
    keys: dict[str, tuple[str, int, Any]] = {}
    serial = first
    for batch in batches([history], BatchLimits(entries=entries, files=files)):
        assert batch.first == serial
        part = history[serial - first : batch.last - first + 1]
        serial = batch.last + 1
        touched = {path for one in part for path in one.changes}
        for one in part:
            keys.update({path: (c.keyname, one.serial, c.value) for path, c in one.changes.items()})
        assert batch.rows == [(one.serial, one.data) for one in part]
        assert batch.size == sum(len(one.data) for one in part)
        assert batch.keys == {path: keys[path][:2] for path in touched}
        assert batch.users == {path: keys[path][2] for path in touched if keys[path][0] == "USER"}
        of_files = {p: keys[p][1:] for p in touched if keys[p][0] in ("STAGEFILE", "PYPIFILE_NOMD5")}
        wanted = {path: wanted_file(path, *state) for path, state in of_files.items()}
        assert batch.wanted == {path: one for path, one in wanted.items() if one is not None}
        assert batch.dropped == {path: of_files[path][0] for path, one in wanted.items() if one is None}
    assert serial == first + len(history)


class TestKeysThatAreNoPath:
    """Their entries are applied as all others; nothing is asked for, kept or dropped under their names."""

    @pytest.mark.parametrize(
        "relpath",
        ["../x", "/etc/passwd", "a/../../x", "a//b", "a/\0", "", "a/" + "x" * 256, "a/" * 1300 + "b"],
    )
    @pytest.mark.parametrize("keyname", ["STAGEFILE", "PYPIFILE_NOMD5"])
    def test_they_are_known_by_themselves(self, relpath: str, keyname: str) -> None:
        batch = applied(entry(6))
        for serial, value in enumerate((file(), None, {"hash_spec": "sha256=00"}, file()), 7):
            changes = {A: KeyChange("STAGEFILE", 1, file()), relpath: KeyChange(keyname, 1, value)}
            batch.add(ChangelogEntry(serial, changes, b""))
            named, problem = batch.pathless[relpath]
            assert (named, bool(problem)) == (serial, value == file())
        assert batch.keys[relpath] == (keyname, 10)
        assert (list(batch.wanted), batch.dropped) == ([A], {})

    def test_a_key_that_is_no_file_may_have_any_name(self) -> None:
        odd = ChangelogEntry(4, {"../x": KeyChange("PLUGIN", 1, file())}, b"")
        assert applied(odd).keys == {"../x": ("PLUGIN", 4)}


class TestBatches:
    """Groups of entries, as they arrive, are cut within the limits."""

    @staticmethod
    def sizes(
        groups: Iterator[list[ChangelogEntry]] | list[list[ChangelogEntry]], limits: BatchLimits
    ) -> list[int]:
        """Return how many entries each batch has."""
        return [len(batch.rows) for batch in batches(groups, limits)]

    def test_no_groups_are_no_batches(self) -> None:
        assert self.sizes([], BatchLimits()) == []
        assert self.sizes([[], []], BatchLimits()) == []

    def test_a_batch_has_no_more_entries_than_allowed(self) -> None:
        groups = [[entry(serial) for serial in range(10)]]
        assert self.sizes(groups, BatchLimits(entries=4)) == [4, 4, 2]
        assert self.sizes(groups, BatchLimits(entries=1)) == [1] * 10

    def test_a_batch_ends_with_the_entry_that_reaches_the_size(self) -> None:
        groups = [[entry(serial, size=size) for serial, size in enumerate((30, 30, 100, 1, 59, 5))]]
        assert self.sizes(groups, BatchLimits(size=60)) == [2, 1, 2, 1]

    def test_a_batch_ends_with_the_entry_that_reaches_the_number_of_files(self) -> None:
        groups = [[entry(serial, {f"u/i/{serial}{n}": file() for n in range(2)}) for serial in range(5)]]
        assert self.sizes(groups, BatchLimits(files=4)) == [2, 2, 1]

    def test_files_that_a_later_entry_deletes_do_not_count(self) -> None:
        made = [entry(serial, {A: file() if serial % 2 else None}) for serial in range(8)]
        assert self.sizes([made], BatchLimits(files=2)) == [8]

    def test_several_groups_may_become_one_batch(self) -> None:
        assert self.sizes([[entry(0)], [entry(1)], [entry(2), entry(3)]], BatchLimits()) == [4]

    def test_an_empty_group_lets_go_of_what_there_is(self) -> None:
        assert self.sizes([[entry(0)], [], [], [entry(1), entry(2)], []], BatchLimits()) == [1, 2]

    def test_a_batch_is_handed_out_before_more_is_asked_for(self) -> None:
        asked = []

        def groups() -> Iterator[list[ChangelogEntry]]:
            for group in ([entry(0)], [], [entry(1)]):
                asked.append(len(group))
                yield group

        cut = batches(groups(), BatchLimits())
        assert next(cut).last == 0
        assert asked == [1, 0]

    def test_what_came_before_an_error_can_be_let_go_first(self) -> None:
        def groups() -> Iterator[list[ChangelogEntry]]:
            yield [entry(0)]
            yield []
            raise ConnectionError

        cut = batches(groups(), BatchLimits())
        assert next(cut).last == 0
        with pytest.raises(ConnectionError):
            next(cut)
