"""List, retry, skip or clear the files that could not be fetched.

Each command writes a few of our rows in one transaction, and so works while `follow` runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from replisync.changelog import Fault
from replisync.errors import Advice, Hint, UsageError
from replisync.standby import (
    Serverdir,
    Store,
    open_database,
    require_ours,
    require_replica,
    require_standby,
    schema,
)
from replisync.system import clock


@contextmanager
def _opened(serverdir: Serverdir) -> Iterator[Store]:
    def guard() -> None:
        require_replica(serverdir, serverdir.role() or "replica")

    # Check before opening the database: opening it for writing already changes its journal.
    require_ours(serverdir)
    guard()
    with open_database(serverdir, write=True, guard=guard) as store:
        if store.version() not in (None, schema.HEAD):
            # Not while an older replisync may be running.
            with serverdir.lock():
                store.prepare()
        store.check_version()
        yield store


def list_faults(serverdir: Serverdir) -> list[Fault]:
    """Return the files that could not be fetched, by relpath."""
    require_ours(serverdir)
    if serverdir.role() is not None:
        require_standby(serverdir)
    with open_database(serverdir) as store:
        store.check_version()
        return store.faults()


def retry_faults(serverdir: Serverdir) -> int:
    """Make all of them due for a retry; return their number."""
    with _opened(serverdir) as store:
        return store.change_faults({"next_try": clock.now()})


def skip_fault(serverdir: Serverdir, relpath: str) -> None:
    """Let serials continue without a file.

    Raises UsageError if it is not among the faults.
    """
    with _opened(serverdir) as store:
        known = store.faults_of([relpath])
        if relpath not in known:
            raise UsageError(
                f"cannot skip {relpath}",
                "not among the faults",
                hint=Hint("see {}", Advice("faults list")),
            )
        store.put_faults((replace(known[relpath], kind="skipped", tries=0, next_try=None),))


def clear_faults(serverdir: Serverdir) -> int:
    """Delete all of them; return their number."""
    with _opened(serverdir) as store:
        relpaths = [fault.relpath for fault in store.faults()]
        store.clear_faults(relpaths)
        return len(relpaths)
