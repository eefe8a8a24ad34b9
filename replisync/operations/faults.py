"""List, retry, skip or clear the files that could not be fetched.

Each command writes a few of our rows in one transaction, and so works while `follow` runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from replisync.changelog import HELD, SKIPPED, Fault
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


def retry_faults(serverdir: Serverdir, names: Sequence[str] = ()) -> int:
    """Make faults due for a retry; return their number.

    names: as in `named`; none for all.
    Raises UsageError.
    """
    with _opened(serverdir) as store:
        return store.change_faults({"next_try": clock.now()}, lambda known: named(known, names, "retry"))


def skip_faults(serverdir: Serverdir, names: Sequence[str] = ()) -> int:
    """Let serials continue without files; return their number.

    names: as in `named`; none for all files that a serial waits for. Patterns leave other files out.
    Raises UsageError.
    """

    def choose(known: list[Fault]) -> list[str]:
        waited = {fault.relpath for fault in known if fault.kind == HELD}
        return [path for path in named(known, names, "skip") if path in waited or path in names]

    with _opened(serverdir) as store:
        return store.change_faults({"kind": SKIPPED, "next_try": None}, choose)


def clear_faults(serverdir: Serverdir, names: Sequence[str] = ()) -> int:
    """Delete faults; return their number.

    names: as in `named`; none for all.
    Raises UsageError.
    """
    with _opened(serverdir) as store:
        relpaths = named(store.faults(), names, "clear")
        store.clear_faults(relpaths)
        return len(relpaths)


def named(known: list[Fault], names: Sequence[str], verb: str) -> list[str]:
    """Return the relpaths of those faults that are named.

    names: relpaths, or patterns with `*`, `?` and `[..]`; none for all. The relpath of a fault is no pattern.
    Raises UsageError if a name matches none.
    """
    relpaths = [fault.relpath for fault in known]
    found = dict.fromkeys(relpaths if not names else ())
    for name in names:
        matching = [name] if name in relpaths else [path for path in relpaths if fnmatchcase(path, name)]
        if not matching:
            raise UsageError(
                f"cannot {verb} {name}", "not among the faults", hint=Hint("see {}", Advice("faults list"))
            )
        found |= dict.fromkeys(matching)
    return list(found)
