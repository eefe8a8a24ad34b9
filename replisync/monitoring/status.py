"""The state of a standby, determined without writing."""

from dataclasses import asdict, replace
from typing import Any

from replisync import __version__
from replisync.changelog import Contact, Divergence, Source
from replisync.errors import Advice, ConditionFailed, Hint, PrimaryRefused, TargetUnusable, WrongHistory
from replisync.monitoring.position import Position, ask_position, known_position
from replisync.primary import Access, Tls
from replisync.session import ASK_SECONDS
from replisync.standby import Serverdir, Store, open_database
from replisync.system import clock
from replisync.verify import distinct, standing

# Without contact to the primary for this long, being at its last known serial proves little.
_STALE_SECONDS = 300.0

_RUN_FIELDS = (
    "command",
    "outcome",
    "from_serial",
    "to_serial",
    "files",
    "bytes",
    "local",
    "seconds",
    "finished",
)

_VERIFY_FIELDS = ("level", "outcome", "serial", "finished", "findings")


def status(
    serverdir: Serverdir, *, offline: bool = False, tls: Tls | None = None, silence: float = ASK_SECONDS
) -> dict[str, Any]:
    """Return the fields of `status --json`; unknown ones are None.

    offline: do not ask the primary.
    silence: seconds without a byte after which to give up on the primary.
    Raises TargetUnusable if the serverdir is not a standby.
    """
    if not serverdir.is_ours() or serverdir.remembered_storage() is None:
        raise TargetUnusable(
            f"cannot report the status of {serverdir}",
            "not a replisync standby",
            hint="create one with `clone`",
        )
    with open_database(serverdir) as store:
        begun = store.version() is not None or serverdir.role() is not None
        if begun:
            store.check_version()
        source = store.source() if begun else None
        if source is None:
            raise TargetUnusable(
                f"cannot report the status of {serverdir}",
                "its clone has not begun",
                hint="run the same `clone` again",
            )
        access = None if offline else Access(tls=tls or Tls(), silence=silence)
        return _fields(serverdir, store, source, access)


def _fields(serverdir: Serverdir, store: Store, source: Source, access: Access | None) -> dict[str, Any]:
    """Return the fields.

    access: how to ask the primary; None not to ask.
    """
    role = serverdir.role()
    promoted = role not in (None, "replica") or source.promoted is not None
    serial = store.last_serial()
    contact, run, counts = store.contact(), store.last_run(), store.file_counts()
    position = known_position(contact)
    if access is not None and not promoted and source.primary_url:
        position = ask_position(contact, source, access)
    behind_us = position.own is not None and position.own < serial
    primary_serial = position.own if behind_us else position.serial
    # A refusal explains the missing serial: show it first.
    refusal = str(position.error) if isinstance(position.error, PrimaryRefused) else None
    lag = None if primary_serial is None or promoted else max(0, primary_serial - serial)
    divergence = store.divergence()
    running = serverdir.locked_by() is not None
    if run is not None and run.outcome == "running" and not running:
        # The process was killed before it could record its end; the next run records it.
        run = replace(run, outcome="killed")
    state = "promoted" if promoted else "cloning" if role is None else None
    state = state or _state(
        contact,
        lag,
        diverged=divergence is not None or isinstance(position.error, WrongHistory) or behind_us,
        silent=position.error is not None,
        offline=access is None,
    )
    reason, following = _explain(state, serial, position, divergence, running=running)
    if not promoted and role is not None:
        against, command = _against(store)
        reason = "; ".join(filter(None, [reason, against])) or None
        following = following or command
    return {
        "state": state,
        "reason": reason,
        "next": following and following.command,
        "serverdir": str(serverdir),
        "storage": source.storage,
        "primary_url": source.primary_url or None,
        "primary_uuid": source.primary_uuid,
        "uuid": str((serverdir.nodeinfo() or {}).get("uuid", source.uuid)),
        "serial": serial,
        "primary_serial": primary_serial,
        "lag_serials": lag,
        "lag_seconds": _lag_seconds(lag, contact),
        "last_contact": clock.now()
        if position.own is not None
        else contact.contacted_at
        if contact
        else None,
        "files_total": counts.total,
        "files_missing": counts.missing,
        "faults": store.fault_count(),
        "seed": {
            "kind": source.seed_kind,
            "serial": source.seed_serial,
            "started": source.seed_started,
            "finished": source.seed_finished,
            "reason": source.seed_reason,
        },
        "last_run": None if run is None else {k: v for k, v in asdict(run).items() if k in _RUN_FIELDS},
        "last_verify": _last_verify(store),
        "version": __version__,
        "running": running,
        "error": refusal or (run.error if run else None),
        "divergence": None if divergence is None else asdict(divergence),
    }


def _last_verify(store: Store) -> dict[str, Any] | None:
    found = store.last_verification()
    return None if found is None else {name: getattr(found, name) for name in _VERIFY_FIELDS}


def _against(store: Store) -> tuple[str | None, Advice | None]:
    """Return the reasons not to promote a standby whose serial is current, and the command to run."""
    whys: list[str] = []
    following: Advice | None = None
    if missing := store.missing_private_files():
        whys.append(f"{missing} files of private stages are missing")
        following = Advice("faults list")
    for found in distinct(standing(store)):
        whys.append(f"`verify --level {found.level}` at {found.finished} found {found}")
        following = following or Advice("verify", repair=True, level=found.level)
    return "; ".join(whys) or None, following


def _explain(
    state: str, serial: int, position: Position, divergence: Divergence | None, *, running: bool
) -> tuple[str | None, Advice | None]:
    """Return why a standby is not current, and the command to run, if one helps.

    running: whether a run is active, which then needs no other command.
    """
    catchup = None if running else Advice("catchup")
    if state == "cloning":
        return "its clone is not complete" + ("" if running else ": the same `clone` resumes it"), None
    if state == "diverged":
        if divergence is None:
            return position.why or f"the primary is at serial {position.own}, behind ours, {serial}", catchup
        fork = divergence.fork_serial
        return divergence.reason, None if fork is None else Advice("rewind", to_serial=fork)
    if state == "stale":
        return (
            f"the primary cannot be asked: {position.why}"
            if position.error
            else "the last contact to the primary was more than five minutes ago"
        ), None
    if state == "behind":
        ahead = (position.serial or 0) - serial
        return f"the primary is at serial {position.serial}, {ahead} ahead of ours", catchup
    return None, None


def _state(contact: Contact | None, lag: int | None, *, diverged: bool, silent: bool, offline: bool) -> str:
    if diverged:
        return "diverged"
    long_ago = contact is None or clock.seconds_since(contact.contacted_at) > _STALE_SECONDS
    if silent or (offline and long_ago):
        return "stale"
    return "behind" if lag else "current"


def _lag_seconds(lag: int | None, contact: Contact | None) -> float | None:
    """Return the longest time, in seconds, that the standby may have been behind."""
    if not lag:
        return None if lag is None else 0.0
    if contact is None or contact.in_sync_at is None:
        return None
    return round(clock.seconds_since(contact.in_sync_at), 1)


def check_lag(fields: dict[str, Any], max_serials: int | None, max_seconds: float | None) -> None:
    """Raise ConditionFailed if the standby is further behind than allowed, or its lag is unknown."""
    for name, bound in (("lag_serials", max_serials), ("lag_seconds", max_seconds)):
        if bound is None:
            continue
        lag = fields[name]
        if lag is None or lag > bound or fields["state"] in ("stale", "diverged", "cloning"):
            shown = "unknown" if lag is None else lag
            raise ConditionFailed(
                f"cannot accept the lag of {fields['serverdir']}",
                f"it is {fields['state']}, {name} is {shown}, but the limit is {bound}",
                hint=Hint("run {}, or find the reason in the log of `follow`", Advice("catchup")),
            )
