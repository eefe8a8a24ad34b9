"""Open a standby for repair, even if damaged; never a standalone server, nor another's database."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from replisync.changelog import Source
from replisync.errors import TargetUnusable
from replisync.standby import HEAD, VERSION_TABLE, Serverdir, Store, open_database
from replisync.verify import findings as kinds
from replisync.verify.findings import Finding
from replisync.verify.run import judged_source


def refuse_server(serverdir: Serverdir) -> None:
    """Check that a serverdir is not a standalone server, whatever else is wrong with it.

    Raises TargetUnusable.
    """
    try:
        info = serverdir.nodeinfo() or {}
    except TargetUnusable:
        return
    if info.get("role", "replica") == "replica":
        return
    with open_database(serverdir) as store:
        found = store.identity()
    if found is None or info.get("uuid") in (found.uuid, found.primary_uuid):
        raise TargetUnusable(
            f"cannot repair {serverdir}",
            f"it was promoted, or made a standalone server: its role is {info.get('role')}",
            hint="such a server is never written again; if that was a mistake, clone into an empty serverdir",
        )


@contextmanager
def opened(serverdir: Serverdir, repairs: list[Finding]) -> Iterator[tuple[Store, Source]]:
    """Hold the lock and the open database of a standby that may be damaged.

    repairs: receives those that were needed to open it.
    Raises TargetUnusable if it is not a standby, or another replisync writes to it.
    """
    with ExitStack() as stack:
        stack.enter_context(serverdir.lock())
        serverdir.make_own_folders()
        store = stack.enter_context(
            open_database(serverdir, write=True, alone=True, guard=lambda: refuse_server(serverdir))
        )
        if store.restore_version():
            repairs.append(Finding(kinds.SCHEMA, VERSION_TABLE, None, f"version {HEAD}", "none"))
        try:
            store.check_version()
        except TargetUnusable:
            store.prepare()  # raises if it is a newer one
        source = judged_source(serverdir, store)
        remembered = serverdir.remembered_uuid()
        if source.promoted is not None:
            raise TargetUnusable(
                f"cannot repair {serverdir}",
                f"its database was promoted at {source.promoted}",
                hint="a promoted server is never written again",
            )
        if remembered not in (None, source.uuid):
            raise TargetUnusable(
                f"cannot repair {serverdir}",
                "its database is not the one that it was created with",
                hint="give the right one with --storage",
            )
        yield store, source
