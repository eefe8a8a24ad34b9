"""A bad line to the primary where the target is PostgreSQL: files are rows, written in pieces."""

from typing import Any

import pytest

from tests.faults.conftest import World
from tests.faults.test_files import PRIVATE_FILES
from tests.support.history import read_history
from tests.support.pgstandby import PostgresStandby, files, files_on_disk, history, sequence
from tests.support.postgres import Postgres
from tests.support.proxy import Fault

CHANGES = r"/\+changelog/\d+-"


def test_a_bad_line_leaves_no_trace_in_a_database(world: World, postgres: Postgres) -> None:
    """Each of these strikes a catchup once; it tries again, and the database is what the primary is."""
    standby = PostgresStandby(
        world.folder / "standby", world.proxy.url, world.secretfile, postgres.database()
    )
    standby.clone()
    theirs = read_history(world.primary.serverdir)
    live = theirs.live_files
    wanted = {path: found for path, found in files_on_disk(world.primary.serverdir).items() if path in live}
    damages: list[tuple[str, dict[str, Any]]] = [
        (CHANGES, {"cut_after": 10_000}),
        (CHANGES, {"stall_after": 10_000}),
        (PRIVATE_FILES, {"cut_after": 20_000}),
        (PRIVATE_FILES, {"stall_after": 20_000}),
        (PRIVATE_FILES, {"flip_at": 20_000}),
        (PRIVATE_FILES, {"content_length_delta": 1}),
        (PRIVATE_FILES, {"status": 503}),
    ]
    for path, effects in damages:
        standby.rewind(world.early_serial)
        fault = world.proxy.add(Fault(path=path, times=1, **effects))
        standby.catchup("--request-timeout", 1)
        assert fault.done == 1, effects
        found = history(standby.database)
        assert (found.kv, found.last_serial) == (theirs.kv, world.serial), effects
        assert files(standby.database) == wanted, effects
        assert sequence(standby.database) == world.serial + 1
        assert not list((standby.serverdir / ".replisync" / "tmp").iterdir())


@pytest.mark.parametrize(("path", "code"), [(CHANGES, 5), (PRIVATE_FILES, 3)])
def test_a_line_that_stays_bad_leaves_the_database_as_it_was(
    world: World, postgres: Postgres, path: str, code: int
) -> None:
    """Garbage that does not end: a serial, or its files, are there as a whole or not at all."""
    standby = PostgresStandby(
        world.folder / "standby", world.proxy.url, world.secretfile, postgres.database()
    )
    standby.clone()
    standby.rewind(world.early_serial)
    before = history(standby.database)
    with world.proxy.fault(path=path, garbage_at=0):
        standby.catchup("--patience", 1, code=code)
    reached = standby.serial
    assert world.early_serial <= reached < world.serial
    if code == 5:
        assert history(standby.database) == before
    assert sequence(standby.database) == reached + 1
    standby.catchup()
    assert history(standby.database).kv == read_history(world.primary.serverdir).kv
