"""Verifying real standbys: at rest, damaged in every way at once, and while everything is in motion."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Event, Thread

import pytest

from tests.support.devpi import Server
from tests.support.operations import Operations
from tests.support.pgstandby import PostgresStandby
from tests.support.postgres import Postgres
from tests.support.runs import run_apart, run_here
from tests.support.standby import Standby
from tests.support.upstream import Upstream

LEVELS = ("quick", "full", "files", "full")


def test_a_standby_with_everything_is_right_at_every_level(still: Server, cloned: Standby) -> None:
    for level in ("quick", "files", "full"):
        report = json.loads(run_here("verify", *cloned.own, "--level", level, "--json").stdout)
        assert report["findings"] == []
        assert (report["level"], report["outcome"], report["serial"]) == (level, "ok", still.serial())
    last = cloned.status()["last_verify"]
    assert (last["level"], last["outcome"], last["serial"]) == ("full", "ok", still.serial())


@pytest.fixture(params=["sqlite", "postgres"])
def moving(request: pytest.FixtureRequest, tmp_path: Path, primary: Server, secretfile: Path) -> Standby:
    """A standby of a primary that is about to change."""
    if request.param == "sqlite":
        return Standby(tmp_path / "standby", primary.url, secretfile)
    postgres: Postgres = request.getfixturevalue("postgres")
    return PostgresStandby(tmp_path / "standby", primary.url, secretfile, postgres.database())


@pytest.fixture
def operations(primary: Server, upstream: Upstream) -> Iterator[Operations]:
    """What may happen to the primary."""
    operations = Operations(primary, upstream, Random(11))  # noqa: S311
    yield operations
    operations.close()


def test_nothing_is_found_while_the_primary_changes_and_the_standby_follows(
    moving: Standby, operations: Operations
) -> None:
    for _ in range(20):
        operations.one()
    moving.clone()
    enough = Event()

    def change() -> None:
        while not enough.is_set():
            operations.one()

    busy = Thread(target=change)
    with moving.follow() as follower:
        busy.start()
        try:
            reports = [
                json.loads(run_apart("verify", *moving.own, "--level", level, "--json").stdout)
                for level in LEVELS
            ]
        finally:
            enough.set()
            busy.join()
        follower.stop()
    assert all(report["findings"] == [] for report in reports)
    assert reports[-1]["serial"] > reports[0]["serial"]
