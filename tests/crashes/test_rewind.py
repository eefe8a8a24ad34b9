"""A rewind that dies or fails in any call: the target is what it was or what it is to be, with all files."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.crashes.points import (
    Point,
    alternating,
    calls_of,
    every_point,
    is_change,
    parameters,
    scratch,
    survived,
)
from tests.edges.scenario import ChainedPrimary, rows_in_postgres
from tests.edges.test_rewind import (
    LAST,
    OPS,
    QUERIES,
    Standby,
    followed,
    in_postgres,
    retained,
    state,
)
from tests.fakes import Died, Trap
from tests.support import postgres as support

SERIALS = {"far": 4, "near": 9}


@pytest.fixture(scope="session")
def followed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target in SQLite that has followed all of a history; copy it, change nothing in it."""
    root = tmp_path_factory.mktemp("followed") / "standby"
    followed(root)
    return root


def copy(followed: Path, root: Path) -> ChainedPrimary:
    """Make a copy of a target, and a primary that it has followed."""
    shutil.copytree(followed, root)
    server = ChainedPrimary()
    for op in OPS:
        op(server)
    return server


def take_back(
    root: Path, server: ChainedPrimary, serial: int, trap: Trap, kind: type[Standby] = Standby
) -> None:
    """Take a target back with a failure in one call, then again."""

    def run() -> None:
        with closing(kind(root, server, trap, entries=1)) as target:
            target.take_back(serial)

    survived(2, run)


def calls(name: str) -> list[str]:
    """Return the calls of a rewind without a failure."""
    return calls_of(lambda root, trap: take_back(root, followed(root), SERIALS[name], trap))


CALLS = {name: calls(name) for name in SERIALS}


@cache
def undisturbed(serial: int) -> tuple[dict[str, object], list[str]]:
    """Return the state, and the names of what is retained, after a rewind without a failure."""
    with scratch() as folder:
        root = folder / "standby"
        take_back(root, followed(root), serial, Trap())
        return state(root), retained_names(root)


def test_a_rewind_makes_all_kinds_of_calls() -> None:
    """Otherwise the tests below would prove less than they say."""
    for name, calls in CALLS.items():
        expected = {"files.receive", "files.rename_retained", "store.commit"}
        assert expected | ({"files.retain"} if name == "far" else set()) <= set(calls)


@parameters({name: every_point(calls, reads=False) for name, calls in CALLS.items()})
def test_a_failure_in_any_call_changes_nothing_in_the_end(
    name: str, point: Point, followed_once: Path, folder: Path
) -> None:
    """In between it is what it was, or what it is to be, with all files; afterwards the same as without."""
    root, trap = folder / "standby", point.trap()
    take_back(root, copy(followed_once, root), SERIALS[name], trap)
    assert trap.sprung
    assert (state(root), retained_names(root)) == undisturbed(SERIALS[name])


def without_time(path: Path) -> str:
    """Return the name of a retained file as it was before a rewind gave it another one."""
    return re.sub(r"^\d{4}-\d\d-\d\dT[^-]+-", "", path.name)


def retained_names(root: Path) -> list[str]:
    """Return the names in the retained folder, without the times in them, and check the rows."""
    retained(root)
    return sorted(map(without_time, (root / ".replisync" / "retained").iterdir()))


def changes_only(calls: list[str]) -> Iterator[tuple[Point, str]]:
    """Yield the points in which a process dies that may have changed something."""
    for point, words in every_point(calls, reads=False):
        if point.dies and "in_the_transaction" not in words:
            yield point, words


@parameters({"far": changes_only(CALLS["far"])})
def test_a_target_that_died_on_the_way_back_can_go_on_forwards_instead(
    name: str, point: Point, followed_once: Path, folder: Path
) -> None:
    """Whoever changes their mind after a crash catches up again: the history is whole at each moment."""
    root, expected = folder / "standby", state(followed_once)
    server = copy(followed_once, root)
    with closing(Standby(root, server, point.trap(), entries=1)) as target, pytest.raises(Died):
        target.take_back(SERIALS[name])
    with closing(Standby(root, server, Trap(), entries=1)) as target:
        files: Any = state(root)["files"]
        present = [relpath for relpath, _, _, how, _, _ in files if how == "present"]
        assert [path for path in present if not target.serverdir.files.joinpath(path).is_file()] == []
        target.begin()
        target.catch_up(LAST)
        target.pipeline.step(poll=False)
    for part in ("changelog", "kv", "pending"):
        assert state(root)[part] == expected[part], part


def commits_and_the_last_of_each(calls: list[str]) -> Iterator[tuple[Point, str]]:
    """Yield a point in each commit, and in the last one of each other change."""
    for point, words in alternating(calls):
        call, nth = point.at
        if call == "store.commit" or nth == calls.count(call) - 1:
            yield point, words


@parameters({"far": commits_and_the_last_of_each(CALLS["far"])})
def test_the_same_in_postgresql(
    name: str, point: Point, undisturbed_there: dict[str, Any], postgres: support.Postgres, folder: Path
) -> None:
    """Contents of files are rows there, and devpi's sequence moves with the serial.

    Each failure needs a schema of its own.
    """
    root, database, trap = folder / "standby", postgres.schema(), point.trap()
    kind = in_postgres(database)
    take_back(root, followed(root, kind), SERIALS[name], trap, kind)
    assert trap.sprung
    assert state_in_postgres(root, database) == undisturbed_there


@pytest.fixture(scope="module")
def undisturbed_there(postgres: support.Postgres, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state after a rewind in PostgreSQL without a failure, which makes the calls of one in SQLite."""
    root, database, trap = tmp_path_factory.mktemp("there") / "standby", postgres.schema(), Trap()
    kind = in_postgres(database)
    take_back(root, followed(root, kind), SERIALS["far"], trap, kind)
    assert list(filter(is_change, trap.names)) == list(filter(is_change, CALLS["far"]))
    found = state_in_postgres(root, database)
    assert found["sequence"] == [(SERIALS["far"], True)]
    return found


def state_in_postgres(root: Path, database: support.Database) -> dict[str, Any]:
    """Return what `state` does, and the names of what is retained."""
    found = rows_in_postgres(database, QUERIES)
    stored = rows_in_postgres(database, {"names": "SELECT stored_as FROM replisync_retained"})["names"]
    folder = root / ".replisync" / "retained"
    assert [name for (name,) in stored] == sorted(path.name for path in folder.iterdir())
    found["retained"] = sorted(map(without_time, folder.iterdir()))
    return found
