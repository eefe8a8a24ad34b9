"""The competitors that copy a primary into PostgreSQL: replisync and devpi's own replica."""

from __future__ import annotations

import time

from tests.benchmarks.copies import POLL_SECONDS, clone_command, first_request, replica
from tests.benchmarks.machine import Finished, run_measured
from tests.benchmarks.stage import Stage
from tests.support.postgres import Database

_MOST_SECONDS = 120
_SERIAL = "SELECT coalesce(max(serial), -1) FROM changelog"


def clone(stage: Stage, database: Database, *, files: bool) -> Finished:
    """Clone the primary with replisync, as a process from its start to its end."""
    command = clone_command(stage, stage.new_standby(), files=files)
    finished = run_measured([*command, "--storage", database.spec])
    found = (database.scalar(_SERIAL), database.scalar("SELECT count(*) FROM files"))
    if found != (stage.dataset.last_serial, stage.dataset.files if files else 0):
        raise RuntimeError(f"the database is at serial {found[0]}, with {found[1]} files")
    return finished


def devpi_replica(stage: Stage, database: Database) -> float:
    """Return the seconds that devpi's own replica takes for the metadata, from its first request.

    It may take an hour: after two minutes the seconds are those that it would take at the pace until then.
    """
    with replica(stage, stage.new_replica(), files=False, storage=database.spec) as server:
        deadline = time.time() + _MOST_SECONDS
        while (serial := database.scalar(_SERIAL)) < stage.dataset.last_serial and time.time() < deadline:
            time.sleep(POLL_SECONDS)
        seconds = time.time() - first_request(server.log_path)
    return seconds * stage.dataset.serials / (int(serial) + 1)
