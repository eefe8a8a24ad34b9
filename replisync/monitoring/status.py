"""The state of a standby, determined without writing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from replisync import __version__
from replisync.changelog import Source, WantedFile
from replisync.devpi import SQLITE
from replisync.errors import Advice, ConditionFailed, PrimaryRefused, TargetUnusable
from replisync.monitoring.position import ask_position, known_position
from replisync.monitoring.state import STALE_SECONDS, Known
from replisync.primary import Access, Tls
from replisync.session import ASK_SECONDS
from replisync.standby import Serverdir, Store, open_database
from replisync.system import clock
from replisync.verify import distinct, standing

# Files that are read from the ledger together.
_GROUP = 1000

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
    role, serial = serverdir.role(), store.last_serial()
    contact, run, counts = store.contact(), store.last_run(), store.file_counts()
    divergence = store.divergence()
    follows = role in (None, "replica") and source.promoted is None and bool(source.primary_url)
    asked = access is not None and follows
    position = (
        known_position(contact) if access is None or not follows else ask_position(contact, source, access)
    )
    running = serverdir.locked_by() is not None
    if run is not None and run.outcome == "running" and not running:
        # The process was killed before it could record its end; the next run records it.
        run = replace(run, outcome="killed")
    known = Known(serial, role, source.promoted, position, contact, divergence, run, running, asked)
    # A refusal explains the missing serial: show it first.
    refusal = str(position.error) if isinstance(position.error, PrimaryRefused) else None
    reason, following = known.explained()
    if known.state not in ("promoted", "cloning"):
        against, command = _against(store)
        reason = "; ".join(filter(None, [reason, against])) or None
        following = following or command
    compared = known.state not in ("promoted", "diverged")
    missing = counts.missing
    if known.state == "cloning":
        missing -= _arrived(serverdir, store)
    return {
        "state": known.state,
        "reason": reason,
        "since": known.since,
        "next": following and following.command,
        "serverdir": str(serverdir),
        "storage": source.storage,
        "primary_url": source.primary_url or None,
        "primary_uuid": source.primary_uuid,
        "uuid": str((serverdir.nodeinfo() or {}).get("uuid", source.uuid)),
        "serial": serial,
        "primary_serial": known.primary_serial,
        "lag_serials": known.lag_serials if compared else None,
        "lag_seconds": known.lag_seconds if compared else None,
        "last_contact": clock.now()
        if position.own is not None
        else contact.contacted_at
        if contact
        else None,
        "files_total": counts.total,
        "files_missing": missing,
        "faults": store.fault_count(),
        "seed": {
            "kind": source.seed_kind,
            "serial": source.seed_serial,
            "started": source.seed_started,
            "finished": source.seed_finished,
            "reason": source.seed_reason,
        },
        "retained": _retained(serverdir),
        "last_run": None if run is None else {k: v for k, v in asdict(run).items() if k in _RUN_FIELDS},
        "last_verify": _last_verify(store),
        "version": __version__,
        "running": running,
        "error": refusal or (run.error if run else None),
        "divergence": None if divergence is None else asdict(divergence),
        "lineage": [asdict(one) for one in store.lineage(source)],
    }


def _retained(serverdir: Serverdir) -> dict[str, int]:
    """Count the retained files, and their bytes."""
    sizes: list[int] = []
    with suppress(OSError), os.scandir(serverdir.retained) as found:
        for entry in found:
            with suppress(FileNotFoundError):  # its time came meanwhile
                sizes.append(entry.stat(follow_symlinks=False).st_size)
    return {"files": len(sizes), "bytes": sum(sizes)}


def _arrived(serverdir: Serverdir, store: Store) -> int:
    """Count the files of an interrupted clone that are in place, but not in the ledger yet."""
    if serverdir.storage().name != SQLITE:
        return 0
    return sum(
        os.path.isfile(serverdir.files / file.relpath)
        for index in store.wanted_indexes()
        for file in _wanted(store, index)
    )


def _wanted(store: Store, index: str) -> Iterator[WantedFile]:
    after = ""
    while some := store.wanted_files(index, after, _GROUP):
        yield from some
        after = some[-1].relpath


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


def check_lag(fields: dict[str, Any], max_serials: int | None, max_seconds: float | None) -> None:
    """Raise ConditionFailed if the standby is further behind than allowed, or its lag is unknown.

    While the primary does not answer, the known lag counts until the last contact is five minutes ago.
    """
    bounds = {"lag_serials": max_serials, "lag_seconds": max_seconds}
    for name, bound in bounds.items():
        if bound is None:
            continue
        lag, state, contact = fields[name], fields["state"], fields["last_contact"]
        silent = state == "stale" and (contact is None or clock.seconds_since(contact) > STALE_SECONDS)
        unknown = lag is None or state == "cloning" or (silent and name == "lag_serials")
        if unknown or lag > bound:
            unit = name.removeprefix("lag_")
            shown = (
                f"its lag in {unit} is unknown"
                if unknown
                else f"{'at most ' * (unit == 'seconds')}{lag:g} {unit} behind"
            )
            why = f": {fields['reason']}" if fields["reason"] else ""
            raise ConditionFailed(
                f"cannot accept the lag of {fields['serverdir']}",
                f"{shown}, and --max-lag-{unit} allows {bound:g}; the standby is {state}{why}",
                hint=f"run `{fields['next']}`" if fields["next"] else "",
            )
