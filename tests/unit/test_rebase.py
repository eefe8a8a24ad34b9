"""The history of an import at other serials, and changes that are rewritten to go on from it."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from replisync.changelog.rewrite import Rewriter
from replisync.devpi.entries import ChangelogEntry, parse_stored
from replisync.seed.export.rebase import RebasedImport
from replisync.seed.snapshot import Rows
from tests.support.history import serialize

Changes = dict[str, tuple[str, int, Any]]

USER: Changes = {"u/.config": ("USER", -1, {"indexes": {"m": {"type": "mirror"}, "s": {"type": "stage"}}})}
HISTORY: list[Changes] = [
    {".config": ("USERLIST", -1, {"u"})},
    USER,
    {"u/m/.projects": ("PROJNAMES", -1, {"p"}), "u/s/.projects": ("PROJNAMES", -1, set())},
    {"u/s/.projects": ("PROJNAMES", 2, {"p"}), ".config": ("USERLIST", 0, set())},
]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    with stored(tmp_path / "import", HISTORY) as rows:
        yield rows


@contextmanager
def stored(path: Path, history: list[Changes]) -> Iterator[Rows]:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE changelog (serial INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        data = [(serial, serialize((changes, ["+files/x-tmp"]))) for serial, changes in enumerate(history)]
        database.executemany("INSERT INTO changelog VALUES (?, ?)", data)
        database.execute("CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY, keyname TEXT, serial INTEGER)")
        keys = [
            (key, change[0], serial)
            for serial, changes in enumerate(history)
            for key, change in changes.items()
        ]
        database.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", keys)
    with closing(Rows(path)) as found:
        yield found


def read(history: RebasedImport, first: int = 0) -> dict[int, Changes]:
    with history.changes(first, poll=False) as changes:
        entries = [entry for group in changes.groups for entry in group]
    stored = {entry.serial: parse_stored(entry.serial, entry.data).changes for entry in entries}
    assert stored == {entry.serial: entry.changes for entry in entries}
    return {serial: {key: tuple(change) for key, change in found.items()} for serial, found in stored.items()}


@pytest.mark.parametrize("serial", [3, 4, 10])
def test_an_import_is_shifted_and_what_is_before_it_is_empty(rows: Rows, serial: int) -> None:
    """Serials and back serials alike; the keys of mirrors are left out, their settings are not."""
    found = read(RebasedImport(rows, "uuid", serial, ["u"], mirrors=False))
    shift = serial - 3
    assert list(found) == list(range(serial + 1))
    assert not any(found[empty] for empty in range(shift))
    assert found[shift + 1] == USER
    assert found[shift + 2] == {"u/s/.projects": ("PROJNAMES", -1, set())}
    assert found[shift + 3] == {
        "u/s/.projects": ("PROJNAMES", shift + 2, {"p"}),
        ".config": ("USERLIST", shift, set()),
    }


@pytest.mark.parametrize("serial", [0, 1, 2])
def test_an_import_that_is_too_long_begins_with_one_entry(rows: Rows, serial: int) -> None:
    """What comes later counts, and the first entry refers to none before it."""
    found = read(RebasedImport(rows, "uuid", serial, ["u"], mirrors=False))
    assert list(found) == list(range(serial + 1))
    latest: dict[str, Any] = {}
    for number, changes in found.items():
        for key, (_, back_serial, value) in changes.items():
            assert back_serial < number
            assert back_serial == -1 or key in found[back_serial]
            latest[key] = value
    assert latest == {".config": set(), "u/.config": USER["u/.config"][2], "u/s/.projects": {"p"}}


@pytest.mark.parametrize("serial", [1, 3, 10])
def test_it_can_be_read_from_any_serial_on(rows: Rows, serial: int) -> None:
    """As a clone does that was interrupted."""
    history = RebasedImport(rows, "uuid", serial, ["u"], mirrors=True)
    whole = read(history)
    for first in range(serial + 2):
        assert read(history, first) == {key: value for key, value in whole.items() if key >= first}
        entry = history.entry(first)[1]
        assert (None if entry is None else len(entry.changes)) == (
            len(whole[first]) if first in whole else None
        )


def test_users_who_are_to_have_no_password_have_none_in_any_entry(tmp_path: Path) -> None:
    """devpi-import gives them the empty one; what else it says of them, and all of others, stays."""
    changes: list[Changes] = [
        {
            "a/.config": ("USER", -1, {"pwhash": "x", "created": "2026", "indexes": {}}),
            "b/.config": ("USER", -1, {"pwhash": "y", "created": "2026"}),
        },
        {"a/.config": ("USER", 0, {"pwhash": "x", "created": "2026", "indexes": {"s": {"type": "stage"}}})},
        {"a/.config": ("USER", 1, None)},
    ]
    with stored(tmp_path / "import", changes) as rows:
        found = read(RebasedImport(rows, "uuid", 4, ["b"], mirrors=False))
        assert read(RebasedImport(rows, "uuid", 2, ["a", "b"], mirrors=False)) == dict(enumerate(changes))
    assert found[2] == {
        "a/.config": ("USER", -1, {"created": "2026", "indexes": {}}),
        "b/.config": changes[0]["b/.config"],
    }
    assert found[3] == {"a/.config": ("USER", 2, {"created": "2026", "indexes": {"s": {"type": "stage"}}})}
    assert found[4] == {"a/.config": ("USER", 3, None)}


class Target:
    """What a target knows at serial 9."""

    values = {"u/.config": USER["u/.config"][2]}  # noqa: RUF012

    def last_serial(self) -> int:
        return 9

    def serials_of(self, relpaths: Iterable[str]) -> dict[str, int]:
        return {path: 7 for path in relpaths if path in ("u/s/a", "u/.config")}

    def value(self, relpath: str) -> Any:
        return self.values.get(relpath)


def rewrite(*changes: Changes) -> list[Changes]:
    groups: list[list[ChangelogEntry]] = [
        [parse_stored(10 + number, serialize((change, [])))] for number, change in enumerate(changes)
    ]
    done = [entry for group in Rewriter(Target())(groups) for entry in group]
    assert [entry.original for entry in done] == [entry.data for group in groups for entry in group]
    return [{key: tuple(change) for key, change in entry.changes.items()} for entry in done]


def test_back_serials_are_those_that_the_target_knows() -> None:
    """Of what is committed, and of the entries before that are not yet."""
    assert rewrite(
        {"u/s/a": ("X", 3, 1), "u/s/b": ("X", 4, 1)}, {"u/s/a": ("X", 10, 2), "u/s/b": ("X", 10, None)}
    ) == [
        {"u/s/a": ("X", 7, 1), "u/s/b": ("X", -1, 1)},
        {"u/s/a": ("X", 10, 2), "u/s/b": ("X", 10, None)},
    ]


def test_keys_of_mirrors_are_left_out_by_what_their_user_says_at_that_serial() -> None:
    """A mirror that comes, goes, or becomes a stage under the same name."""
    stage = {"indexes": {"m": {"type": "stage"}}}
    mirror = {"indexes": {"m": {"type": "mirror"}}}
    key: Changes = {"u/m/a": ("STAGEFILE", -1, None)}
    assert rewrite(
        key,
        {"u/.config": ("USER", 1, {"indexes": {}}), **key},
        {"u/.config": ("USER", 1, stage), **key},
        {"u/.config": ("USER", 1, mirror), **key},
        key,
    ) == [
        {},
        {"u/.config": ("USER", 7, {"indexes": {}})},
        {"u/.config": ("USER", 11, stage), "u/m/a": ("STAGEFILE", -1, None)},
        {"u/.config": ("USER", 12, mirror)},
        {},
    ]
