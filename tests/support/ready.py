"""A database that is ready, and has nothing in it: to be copied, where making it is not what is tested."""

import tempfile
from functools import cache
from pathlib import Path

from replisync.standby.database.sqlite import SqliteStore


@cache
def ready_database() -> bytes:
    """Return the file of an empty database with all tables of this version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ".sqlite")
        with SqliteStore(path, write=True, create=True) as store:
            store.prepare()
        return path.read_bytes()
