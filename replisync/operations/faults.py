"""The operator's hand on files that could not be had.

These commands write a row or two of ours, in transactions of their own, and so work while `follow` runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from replisync.changelog.records import Fault
from replisync.errors import UsageError
from replisync.standby.database import schema
from replisync.standby.database.store import Store
from replisync.standby.opening import open_database, require_ours, require_replica, require_standby
from replisync.standby.serverdir import Serverdir
from replisync.system import clock


@contextmanager
def _opened(serverdir: Serverdir) -> Iterator[Store]:
    def guard() -> None:
        require_replica(serverdir, serverdir.role() or "replica")

    # Before the database is opened: opening it for writing changes its journal already.
    require_ours(serverdir)
    guard()
    with open_database(serverdir, write=True, guard=guard) as store:
        if store.version() not in (None, schema.HEAD):
            # Not under the hands of an older replisync that runs.
            with serverdir.lock():
                store.prepare()
        store.check_version()
        yield store


def list_faults(serverdir: Serverdir) -> list[Fault]:
    """Return the files that could not be had, by relpath."""
    require_ours(serverdir)
    if serverdir.role() is not None:
        require_standby(serverdir)
    with open_database(serverdir) as store:
        store.check_version()
        return store.faults()


def retry_faults(serverdir: Serverdir) -> int:
    """Have all of them asked for again at the next opportunity; return how many."""
    with _opened(serverdir) as store:
        return store.change_faults({"next_try": clock.now()})


def skip_fault(serverdir: Serverdir, relpath: str) -> None:
    """Let serials go on without a file.

    Raises UsageError where it is none of the faults.
    """
    with _opened(serverdir) as store:
        known = store.faults_of([relpath])
        if relpath not in known:
            raise UsageError(
                f"cannot skip {relpath}", "it is not among the faults", hint="see `replisync faults list`"
            )
        store.put_faults((replace(known[relpath], kind="skipped", tries=0, next_try=None),))


def clear_faults(serverdir: Serverdir) -> int:
    """Forget all of them; return how many there were."""
    with _opened(serverdir) as store:
        relpaths = [fault.relpath for fault in store.faults()]
        store.clear_faults(relpaths)
        return len(relpaths)
