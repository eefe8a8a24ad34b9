"""Retries while the loop goes on: whenever the process dies, the files are there in the end, and counted."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replisync.replication.fetch import Fetcher
from replisync.replication.retries import Retries
from replisync.system import clock
from tests.crashes.points import Point, calls_of, every_point, is_change, parameters, survived
from tests.edges.scenario import Target, users, value
from tests.fakes import FailingFiles, RecordingLog, RecordingStop, ScriptedPrimary, Trap
from tests.support.waiting import wait_until

CONTENTS = {f"u/pypi/+f/{name}/{name}/{name}-1.0.zip": name.encode() * 1000 for name in ("aaa", "bbb")}


def primary() -> ScriptedPrimary:
    """Return a primary with files of a mirror."""
    server = ScriptedPrimary()
    server.files |= CONTENTS
    server.commit(users("pypi"))
    server.commit({path: ("STAGEFILE", -1, value(content)) for path, content in CONTENTS.items()})
    return server


def faulted(root: Path) -> None:
    """Make a target that lacks these files, and is to try them again now."""
    server = primary()
    server.files |= dict.fromkeys(CONTENTS, 404)
    with closing(Target(root, server, Trap(), entries=2)) as target:
        target.begin()
        target.catch_up(server.serial)
        assert len(target.store.faults()) == len(CONTENTS)
        target.store.change_faults({"next_try": clock.now()})


def retry(root: Path, trap: Trap) -> None:
    """Try them again as `follow` does, until they are there."""

    def run() -> None:
        with closing(Target(root, primary(), trap, entries=2)) as target:
            target.begin()
            files = FailingFiles(target.store.files(target.serverdir, shared=False, prefix="retry-"), trap)
            fetcher = Fetcher(target.primary, files, threads=1, stop=RecordingStop(), place="none")  # type: ignore[arg-type]
            retries = Retries(target.pipeline.wanted, fetcher, target.store, RecordingLog())

            def done() -> bool:
                retries.collect()
                return not target.store.faults()

            retries.begin(10)
            wait_until(done, 30, "the files are there")

    survived(3, run)


def deaths(calls: list[str]) -> Iterator[tuple[Point, str]]:
    """Yield the points in which a process dies that may have changed something."""
    for point, words in every_point(calls, reads=False):
        if point.dies and is_change(point.at[0]):
            yield point, words


def whole(root: Path, trap: Trap) -> None:
    """Make a target, and try again."""
    faulted(root)
    retry(root, trap)


CALLS = calls_of(whole)


def test_a_round_makes_the_calls_that_matter() -> None:
    """Otherwise the tests below would prove less than they say."""
    assert {"files.receive", "files.hold", "files.place", "store.commit"} <= set(CALLS)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that lacks files; copy it, change nothing in it."""
    root = tmp_path_factory.mktemp("faulted") / "standby"
    faulted(root)
    return root


@parameters({"retry": deaths(CALLS)})
def test_whenever_the_process_dies_the_next_one_has_the_files(
    name: str, point: Point, before: Path, folder: Path
) -> None:
    """What was staged or placed, and not recorded, is found or removed; nothing counts that is not there."""
    root, trap = folder / "standby", point.trap()
    shutil.copytree(before, root)
    retry(root, trap)
    assert trap.sprung, name
    with closing(Target(root, primary(), Trap(), entries=2)) as target:
        target.begin()
        assert target.store.file_counts().missing == 0
        assert target.store.faults() == []
        assert {path: (target.serverdir.files / path).read_bytes() for path in CONTENTS} == CONTENTS
        assert list(target.serverdir.tmp.iterdir()) == []
