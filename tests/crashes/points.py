"""Where a run can fail: before and after each call of a part that does I/O.

The calls are those of a run without a failure, which is made when the tests are collected.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from replisync.errors import ReplisyncError
from tests.fakes import Died, Trap, failure

# Calls that change nothing: whether one fails before or after its work is all the same, and for a process
# that dies, so is whether it dies in one of them or in the next that changes something.
READS = (
    "store.read",
    "store.in_the_transaction",
    "primary.",
    "files.size_of",
    "files.sizes_of",
    "files.size_problem",
    "files.size_retained",
    "files.read_retained",
    "files.obstacle",
    "files.digest_of",
    "files.staged",
)


@dataclass(frozen=True)
class Point:
    """A call, and what happens in it.

    at: the name of the call, and its number from 0 among the calls of this name.
    after: whether the call does its work before it fails.
    dies: whether the process ends there; else the call fails, and the process goes on.
    """

    at: tuple[str, int]
    after: bool
    dies: bool = True

    def trap(self) -> Trap:
        """Return what lets the call fail."""
        return Trap(self.at, after=self.after, error=Died if self.dies else failure)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder for a run, in memory where there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - below it the folder has a name of its own
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="replisync-") as name:
        yield Path(name)


def survived(tries: int, run: Callable[[], object]) -> None:
    """Run until it neither dies nor fails with what may pass; fail if all tries do."""
    for _ in range(tries):
        try:
            run()
        except Died:
            continue
        except ReplisyncError as err:
            if not err.transient:
                raise
        else:
            return
    pytest.fail("one failure was too much")


def calls_of(run: Callable[[Path, Trap], object]) -> list[str]:
    """Return the names of all calls of a run without a failure.

    Where it fails nevertheless, that is for the tests to say, and no reason to run none of them.
    """
    trap = Trap()
    with scratch() as folder, suppress(Exception):
        run(folder / "standby", trap)
    return trap.names


def is_change(call: str) -> bool:
    """Return whether a call may change something."""
    return not call.startswith(READS)


def every_point(calls: list[str], *, reads: bool = True) -> Iterator[tuple[Point, str]]:
    """Yield all points in these calls that may differ, with their names.

    reads: whether calls that change nothing fail too, in a process that goes on.
    """
    for number, call in enumerate(calls):
        nth = calls[:number].count(call)
        at = (call, nth)
        for dies in (True, False):
            end = "dies" if dies else "goes on"
            if is_change(call):
                yield Point(at, after=False, dies=dies), f"{call} {nth}, {end} before it"
                yield Point(at, after=True, dies=dies), f"{call} {nth}, {end} after it"
            elif call == "store.in_the_transaction" or (
                # After a read that succeeded, the next one finds the same.
                reads and not dies and not (call == "store.read" and calls[number - 1] == call)
            ):
                yield Point(at, after=False, dies=dies), f"{call} {nth}, {end}"


def alternating(calls: list[str]) -> Iterator[tuple[Point, str]]:
    """Yield a point in each change of these calls, before and after its work in turn; the process dies."""
    changes = [call for call in calls if is_change(call)]
    for number, call in enumerate(changes):
        after = number % 2 == 0
        nth = changes[:number].count(call)
        yield Point((call, nth), after=after), f"{call} {nth}, {'after' if after else 'before'} it"


def parameters(
    points: dict[str, Iterator[tuple[Point, str]]], names: tuple[str, str] = ("name", "point")
) -> pytest.MarkDecorator:
    """Return the mark of a test that is run for each point of each of some runs."""
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(run, point, id=f"{run}: {words}")
            for run, found in points.items()
            for point, words in found
        ],
    )
