"""A failure in each call of each part in turn: afterwards the target is what it is without any failure.

The failing call fails before it does its work, or after it; then the process is gone and another one goes
on, or the same one tries again, as `follow` does.
"""

from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from replisync.errors import ReplisyncError
from replisync.standby.database.store import Store
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
from tests.edges.scenario import HISTORY, Op, PostgresParts, Target, state, state_in_postgres
from tests.fakes import Died, FailingStore, ScriptedPrimary, Trap
from tests.support import postgres as support

States = dict[str, dict[str, Any]]
Run = Callable[[Path, Trap, type[Target]], None]


class FromNothing(Target):
    """A target that makes its database."""

    def make_store(self) -> Store:
        """Return the store, with the trap in it."""
        return FailingStore(self.serverdir.root / ".sqlite", write=True, create=True, trap=self.trap)


def begin(root: Path, trap: Trap, kind: type[Target]) -> None:
    """Follow a primary for the first moments, from nothing at all."""
    go_on(root, trap, FromNothing if kind is Target else kind, HISTORY[:1])


def follow(root: Path, trap: Trap, kind: type[Target]) -> None:
    """Follow a primary that goes on whenever the target has caught up."""
    go_on(root, trap, kind, HISTORY)


def go_on(root: Path, trap: Trap, kind: type[Target], history: tuple[tuple[Op, ...], ...]) -> None:
    """Follow a primary that commits one stage of a history after the other."""
    server = ScriptedPrimary()
    target: Target | None = None
    for stage in history:
        for op in stage:
            op(server)
        for _ in range(3):
            begun = target is not None
            try:
                if target is None:
                    target = kind(root, server, trap, entries=2)
                    target.begin()
                    begun = True
                target.catch_up(server.serial)
                target.pipeline.step(poll=False)  # as a follower polls, which ends what a failure left
                break
            except (Died, ReplisyncError) as err:
                if not (isinstance(err, Died) or err.transient):
                    raise
                if target is not None and (isinstance(err, Died) or not begun):
                    target.close()
                    target = None
        else:
            pytest.fail("one failure was too much")
    assert target is not None
    target.close()


def clone(root: Path, trap: Trap, kind: type[Target]) -> None:
    """Copy a primary that has all of the history already."""
    server = ScriptedPrimary()
    for stage in HISTORY:
        for op in stage:
            op(server)

    def run() -> None:
        with closing(kind(root, server, trap, entries=4, cloning=True)) as target:
            target.begin()
            target.clone(server.serial)
            target.pipeline.recover()

    survived(3, run)


RUNS: dict[str, Run] = {"begin": begin, "follow": follow, "clone": clone}


def calls(name: str, kind: type[Target] = Target) -> list[str]:
    """Return the calls of a run in SQLite without a failure."""
    return calls_of(lambda root, trap: RUNS[name](root, trap, kind))


@cache
def undisturbed(name: str) -> dict[str, Any]:
    """Return the state after a run in SQLite without a failure."""
    with scratch() as folder:
        RUNS[name](folder / "standby", Trap(), Target)
        return state(folder / "standby")


@parameters({name: every_point(calls(name)) for name in RUNS})
def test_a_failure_in_any_call_changes_nothing_in_the_end(name: str, point: Point, folder: Path) -> None:
    trap = point.trap()
    RUNS[name](folder / "standby", trap, Target)
    assert trap.sprung
    found = state(folder / "standby")
    for part, value in undisturbed(name).items():
        assert found[part] == value, f"{part} differs"


# PostgreSQL makes its schema in a transaction of its own. Files are rows there.
IN_POSTGRES = {name: ["store.commit", *calls(name, FromNothing)] for name in ("follow", "clone")}


@parameters({name: alternating(calls) for name, calls in IN_POSTGRES.items()})
def test_the_same_in_postgresql(
    name: str,
    point: Point,
    undisturbed_there: States,
    postgres: support.Postgres,
    folder: Path,
) -> None:
    """Each failure needs a schema of its own, so a call fails either before its work or after it."""
    trap, schema = point.trap(), postgres.schema()
    RUNS[name](folder / "standby", trap, in_postgres(schema))
    assert trap.sprung
    found = state_in_postgres(folder / "standby", schema)
    for part, value in undisturbed_there[name].items():
        assert found[part] == value, f"{part} differs"


@pytest.fixture(scope="module")
def undisturbed_there(postgres: support.Postgres, tmp_path_factory: pytest.TempPathFactory) -> States:
    """The states after runs in PostgreSQL without a failure; they change the same as those in SQLite."""
    found = {}
    for name, calls in IN_POSTGRES.items():
        root, trap, schema = tmp_path_factory.mktemp(name), Trap(), postgres.schema()
        RUNS[name](root, trap, in_postgres(schema))
        assert list(filter(is_change, trap.names)) == list(filter(is_change, calls))
        found[name] = state_in_postgres(root, schema)
    return found


def in_postgres(database: support.Database) -> type[Target]:
    """Return a kind of target that has its data in a database."""

    class InPostgres(PostgresParts, Target):
        spec = database.spec

    return InPostgres


def test_the_history_has_all_kinds_of_moves(folder: Path) -> None:
    """Otherwise the tests above would prove less than they say."""
    trap = Trap()
    follow(folder / "target", trap, Target)
    calls = set(trap.names)
    for name in ("receive", "place", "retain", "size_of", "digest_of", "staged", "clean_staging"):
        assert f"files.{name}" in calls
    assert calls >= {"primary.+changelog", "primary.body", "primary.u", "store.commit", "store.read"}
    found = state(folder / "target")
    assert found["pending"] == []
    assert len(found["retained"]) == 4
    assert [row[2] for row in found["faults"]] == ["mirror"]
    assert [row[3] for row in found["files"]].count("present") == 3
