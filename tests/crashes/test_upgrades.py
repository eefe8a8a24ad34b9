"""An upgrade of our tables that is killed at any statement is done by the next run."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command

from replisync.standby.database import schema
from replisync.standby.database.sqlite import SqliteStore
from tests.edges.conftest import commit, entry
from tests.edges.test_migrations import REVISIONS, configured, connected

# Upgrades a copy of a database again and again, each time killed one statement later, until one is complete.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from alembic import command, script  # once, for all children
from sqlalchemy import Engine, event
from replisync.standby.database.sqlite import SqliteStore

template = Path(sys.argv[1])
for number in range(500):
    path = template.with_name(f"{number}.sqlite")
    shutil.copy(template, path)
    pid = os.fork()
    if not pid:
        left = [number]

        @event.listens_for(Engine, "after_cursor_execute")
        def die(*_):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        with SqliteStore(path, write=True) as store:
            store.prepare()
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
    print(number)
"""


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_upgrade_that_is_killed_at_any_statement_is_done_by_the_next_run(
    tmp_path: Path, revision: str
) -> None:
    """What was there stays: no upgrade is half done, and no row of a retained file is lost with its table."""
    template = tmp_path / "template"
    with SqliteStore(template, write=True, create=True) as store:
        store.prepare()
        store.apply(commit(entry(0)), 0, "now")
        row = {"stored_as": "a", "relpath": "u/dev/a", "serial": 1, "retained_at": "then"}
        store.settle([], [row])
    with connected(template) as connection:
        command.downgrade(configured(connection), revision)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(template)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(killed) > 3
    for number in killed:
        with SqliteStore(tmp_path / f"{number}.sqlite", write=True) as store:
            assert store.version() in (revision, schema.HEAD)
            store.prepare()
            assert store.version() == schema.HEAD
            assert [one.stored_as for one in store.retained_of(["u/dev/a"])] == ["a"]
            assert store.last_serial() == 0
            store.own_serial()
