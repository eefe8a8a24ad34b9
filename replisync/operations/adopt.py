"""Accept a primary that has a new UUID, but the same history."""

from dataclasses import replace

from replisync.changelog import Hello, History
from replisync.devpi import same_entry
from replisync.errors import Advice, BrokenStream, CorruptEntry, Hint, TargetUnusable, WrongHistory
from replisync.replication import Patience, until
from replisync.session import Session
from replisync.system import clock

_ATTEMPTED = "cannot adopt the primary's UUID"


def adopt(session: Session, url: str, patience: Patience) -> None:
    """Follow the server at a URL under its own UUID, if its whole history up to our serial is ours.

    Raises WrongHistory if an entry differs or is missing, TargetUnusable if the standby does not have the
    primary's own entries from the start; nothing is changed then.
    """
    source, store = session.source, session.store
    if source.based_on >= 0:
        raise TargetUnusable(
            _ATTEMPTED,
            "the standby was seeded from an export, so its history does not begin with the primary's",
            hint="clone into another serverdir",
        )
    stop = session.context.stop

    def ask() -> Hello:
        with stop.waiting():
            return primary.hello()

    with session.settings.access.primary(url, source.uuid, "") as primary:
        hello = patience.call(ask)
        if hello.uuid == source.primary_uuid:
            return
        primary.expect(hello.uuid)
        try:
            _compare(session, primary, patience)
        except WrongHistory as err:
            err.details["of_another"] = True  # the primary that we follow has not diverged
            raise
    # The row comes last: once it is there, `.nodeinfo` is correct.
    info = session.serverdir.nodeinfo() or {}
    names = {"primary-uuid", "master-uuid"} & set(info)
    session.serverdir.write_nodeinfo(info | dict.fromkeys(names, hello.uuid))
    session.source = replace(source, primary_uuid=hello.uuid)
    store.adopt_primary(session.source, clock.now())
    session.context.log.info("adopted the primary's UUID", uuid=hello.uuid, former=source.primary_uuid)


def _compare(session: Session, primary: History, patience: Patience) -> None:
    """Check that the primary has each of our entries."""
    store, context = session.store, session.context
    last, due = store.last_serial(), 0
    context.progress.stage("history", last + 1, "serials")

    def read() -> None:
        nonlocal due
        while due <= last:
            begun = due
            with primary.changes(due, poll=False) as changes:
                if changes.hello.serial < last:
                    raise WrongHistory(
                        _ATTEMPTED, f"it is at serial {changes.hello.serial}, behind ours", serial=last
                    )
                for group in until(changes.groups, last):
                    context.stop.check()
                    for entry in group:
                        if not _same(store.primary_entry(entry.serial), entry.data):
                            raise WrongHistory(
                                _ATTEMPTED,
                                f"its entry at serial {entry.serial} is not ours",
                                serial=entry.serial,
                                hint=Hint(
                                    "check --primary-url, and the standby with {}",
                                    Advice("verify", level="full"),
                                ),
                            )
                        due = entry.serial + 1
                    context.progress.advance(len(group), sum(len(entry.data) for entry in group))
            if due == begun:
                raise BrokenStream("cannot read the primary's changelog", "the answer had no entries")

    patience.call(read, progress=lambda: due)


def _same(ours: bytes | None, theirs: bytes) -> bool:
    try:
        return ours is not None and same_entry(ours, theirs)
    except CorruptEntry:
        return False
