"""A failure in each call of each part in turn: afterwards the target is what it is without any failure.

The failing call fails before it does its work, or after it; then the process is gone and another one goes
on, or the same one tries again, as `follow` does.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from replisync.errors import ReplisyncError
from tests.edges.scenario import HISTORY, PostgresParts, Target, state, state_in_postgres
from tests.fakes import Died, ScriptedPrimary, Trap, failure
from tests.support import postgres as support

Run = Callable[[Path, Trap, type[Target]], None]

# Calls that change nothing: whether one fails before or after its work is all the same, and for a process
# that dies, so is whether it dies in one of them or in the next that changes something.
READS = (
    "store.read",
    "store.in_the_transaction",
    "primary.",
    "files.size_of",
    "files.obstacle",
    "files.digest_of",
    "files.staged",
)


def follow(root: Path, trap: Trap, kind: type[Target] = Target) -> None:
    """Follow a primary that goes on whenever the target has caught up."""
    server = ScriptedPrimary()
    target: Target | None = None
    for stage in HISTORY:
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


def clone(root: Path, trap: Trap, kind: type[Target] = Target) -> None:
    """Copy a primary that has all of the history already."""
    server = ScriptedPrimary()
    for stage in HISTORY:
        for op in stage:
            op(server)
    for _ in range(3):
        with closing(kind(root, server, trap, entries=4, cloning=True)) as target:
            try:
                target.begin()
                target.clone(server.serial)
                target.pipeline.recover()
            except Died:
                continue
            except ReplisyncError as err:
                if not err.transient:
                    raise
                continue
            return
    pytest.fail("one failure was too much")


RUNS: dict[str, Run] = {"follow": follow, "clone": clone}


@pytest.mark.parametrize("error", [Died, failure], ids=["the process dies", "it goes on"])
@pytest.mark.parametrize("after", [False, True], ids=["before the work", "after the work"])
@pytest.mark.parametrize("name", RUNS)
def test_a_failure_in_any_call_changes_nothing_in_the_end(
    name: str, after: bool, error: Callable[[str], BaseException], folder: Path
) -> None:
    run = RUNS[name]
    undisturbed = Trap()
    run(folder / "undisturbed", undisturbed, Target)
    expected = state(folder / "undisturbed")
    for at, call in enumerate(undisturbed.names):
        if call.startswith(READS) and (after or error is Died) and call != "store.in_the_transaction":
            continue
        if call == "store.read" and undisturbed.names[at - 1] == call:
            continue  # as the one before it: nothing has changed in between
        root = folder / str(at)
        trap = Trap(at, after=after, error=error)
        run(root, trap, Target)
        assert trap.sprung
        found = state(root)
        for part, value in expected.items():
            assert found[part] == value, f"{part} differs after a failure of call {at}, {call}"


@pytest.mark.parametrize("name", RUNS)
def test_the_same_in_postgresql(name: str, postgres: support.Postgres, folder: Path) -> None:
    """Files are rows there. Each failure needs a schema of its own, so every other call fails, now before its
    work and now after it, the process dying each time."""
    run = RUNS[name]
    undisturbed, schema = Trap(), postgres.schema()
    run(folder / "undisturbed", undisturbed, in_postgres(schema))
    expected = state_in_postgres(folder / "undisturbed", schema)
    calls = [at for at, call in enumerate(undisturbed.names) if not call.startswith(READS)]
    for number, at in enumerate(calls):
        root, schema = folder / str(at), postgres.schema()
        trap = Trap(at, after=number % 2 == 0)
        run(root, trap, in_postgres(schema))
        assert trap.sprung
        found = state_in_postgres(root, schema)
        for part, value in expected.items():
            assert found[part] == value, f"{part} differs after a failure of call {at}"


def in_postgres(database: support.Database) -> type[Target]:
    """Return a kind of target that has its data in a database."""

    class InPostgres(PostgresParts, Target):
        spec = database.spec

    return InPostgres


def test_the_history_has_all_kinds_of_moves(folder: Path) -> None:
    """Otherwise the tests above would prove less than they say."""
    trap = Trap()
    follow(folder / "target", trap)
    calls = set(trap.names)
    for name in ("receive", "place", "retain", "size_of", "digest_of", "staged", "clean_staging"):
        assert f"files.{name}" in calls
    assert calls >= {"primary.+changelog", "primary.body", "primary.u", "store.commit", "store.read"}
    found = state(folder / "target")
    assert found["pending"] == []
    assert len(found["retained"]) == 4
    assert [row[2] for row in found["faults"]] == ["mirror"]
    assert [row[3] for row in found["files"]].count("present") == 3
