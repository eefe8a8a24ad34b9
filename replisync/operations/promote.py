"""Make a standby startable as primary."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from replisync.changelog import UNFETCHABLE, Source
from replisync.errors import Advice, ConditionFailed, Hint, LocalFailure, NewerPrimary, TargetUnusable
from replisync.monitoring import Position, ask_position
from replisync.primary import Access, Tls
from replisync.replication import Context, settle
from replisync.session import ASK_SECONDS
from replisync.standby import (
    Serverdir,
    Store,
    existing_standby,
    open_database,
    readable_standby,
)
from replisync.system import chmod, clock, quoted, read_only
from replisync.verify import (
    DATABASE,
    PERMISSIONS,
    Finding,
    Level,
    Report,
    Standing,
    distinct,
    found_now,
    look,
    readable,
    standing,
    subject_of,
)

# An event serial before all events: devpi-server then replays all of the history to its plugins.
_NOTHING_HANDLED = -1

# The role of a promoted server, in `.nodeinfo`.
_PRIMARY = "primary"

# The number of permission findings that are named one by one.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Promotion:
    """The result of a promotion, or of a dry run.

    storage: in devpi-server's format, without the password.
    primary_serial: the last serial that the old primary is known to have reached, or None.
    reachable: whether the old primary itself still answers; no client may write to it then.
    unreachable: why it does not answer, in one clause, such as which other server does; None if it does.
    lost_serials: the number of its serials that the standby lacks.
    missing_files: the number of missing files of private stages.
    findings: the number of each kind of finding that prevents it, of earlier verifications and a quick one
        just now.
    found: the same in words, by verification.
    warnings: problems that may keep devpi-server from using the serverdir, each with a remedy.
    doubt: why the old primary's content is unknown although it answers; None if known.
    last_contact: the last contact with the old primary, or None.
    deleted_files: the number of files that the primary deleted, but that we may not move; 0 in a dry
        run, or without such files.
    promoted: the time of the promotion; None in a dry run.
    already: whether that was an earlier one, after which nothing was changed.
    """

    serverdir: str
    storage: str
    serial: int
    uuid: str
    dry_run: bool
    primary_serial: int | None = None
    reachable: bool = False
    unreachable: str | None = None
    lost_serials: int = 0
    missing_files: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    warnings: tuple[str | Hint, ...] = ()
    doubt: str | None = None
    last_contact: str | None = None
    deleted_files: int = 0
    promoted: str | None = None
    already: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """The operator's choices for a promotion.

    accept_loss: promote even if the primary is known to have more, files are missing, or a verification found
        damage.
    keep_identity: take the old primary's UUID, so that its other replicas can follow this server.
    replay_events: replay all of the history to devpi-server's plugins.
    dry_run: change nothing.
    """

    accept_loss: bool = False
    keep_identity: bool = False
    replay_events: bool = False
    dry_run: bool = False


def promote(serverdir: Serverdir, context: Context, choices: Choices, tls: Tls) -> Promotion:
    """Check that a standby is complete, and set its role to primary.

    tls: the TLS settings for asking the old primary.
    Raises TargetUnusable if it is not a complete standby or replisync writes to it, ConditionFailed if
    something would be lost.
    """
    if done := _promoted(serverdir, choices):
        return done
    access = Access(tls=tls, silence=ASK_SECONDS)
    # A rehearsal only reads, so that it is possible at any time.
    opened = readable_standby(serverdir) if choices.dry_run else existing_standby(serverdir, promoting=True)
    with opened as (store, source):
        serverdir.check_path()
        store.check_server()
        position = ask_position(store.contact(), source, access)
        now, found = _verified(serverdir, store, source, context)
        promotion = _assess(serverdir, store, position, found, now)
        promotion = replace(
            promotion,
            uuid=source.primary_uuid if choices.keep_identity else source.uuid,
            dry_run=choices.dry_run,
            warnings=(*promotion.warnings, *_reminders(serverdir, store, source, position)),
        )
        if not choices.accept_loss:
            level = found[0].level if found else str(Level.QUICK)
            _refuse_loss(promotion, position, level, diverged=store.divergence() is not None)
            _refuse_twins(promotion, choices)
        if choices.dry_run:
            return promotion
        held = settle(store, store.files(serverdir), retain=True)
        promotion = replace(promotion, deleted_files=len(held), promoted=source.promoted or clock.now())
        serverdir.write_event_serial(_NOTHING_HANDLED if choices.replay_events else promotion.serial)
        # Another process may have this database, through a copy of the serverdir: it must not write any more.
        store.put_source(replace(source, promoted=promotion.promoted))
        store.back_to_devpi()
        # The role comes last: once it is set, devpi-server starts as primary.
        info = serverdir.nodeinfo() or {}
        info = {key: info[key] for key in info if key not in ("masterurl", "master-uuid")}
        serverdir.write_nodeinfo({**info, "role": _PRIMARY, "uuid": promotion.uuid})
        return promotion


def _promoted(serverdir: Serverdir, choices: Choices) -> Promotion | None:
    """Return the result of an earlier promotion that is complete, or None.

    Raises TargetUnusable if it gave the server another identity than the one asked for.
    """
    if not serverdir.is_ours() or serverdir.role() != _PRIMARY:
        return None
    with open_database(serverdir) as store:
        store.check_version()
        source = store.source()
        if source is None or source.promoted is None:
            return None
        uuid = str((serverdir.nodeinfo() or {}).get("uuid", source.uuid))
        if choices.keep_identity and uuid != source.primary_uuid:
            raise TargetUnusable(
                f"cannot promote {serverdir}",
                f"it was promoted at {source.promoted}, with a UUID of its own",
                hint="start it as it is; clone the other standbys from it",
            )
        return Promotion(
            serverdir=str(serverdir),
            storage=str(serverdir.storage()),
            serial=store.last_serial(),
            uuid=uuid,
            dry_run=choices.dry_run,
            promoted=source.promoted,
            already=True,
        )


def _verified(
    serverdir: Serverdir, store: Store, source: Source, context: Context
) -> tuple[Report | None, list[Standing]]:
    """Return the report of a quick verification now, and the remaining findings of earlier ones.

    No verification is made after an interrupted promotion, which has made one.
    """
    began = clock.now()
    try:
        found = standing(store)
        if source.promoted is not None:
            return None, found
        # A separate reader: views hide damage from it, and must not hide it from the writer.
        with readable(serverdir) as reader:
            now = look(partial(subject_of, serverdir, reader, source, context), Level.QUICK)
    except (TargetUnusable, LocalFailure) as err:
        # An unreadable database may be all that is left: it counts as a loss to accept.
        damage = Finding(DATABASE, err.why, None, "a readable database", err.why)
        now = Report(
            level=str(Level.QUICK),
            serial=-1,
            outcome="failed",
            started=began,
            finished=clock.now(),
            seconds=0.0,
            counts={damage.kind: 1},
            findings=[damage],
            total=1,
        )
        return now, []
    # It clears the findings of earlier ones of its level.
    return now, [one for one in found if one.level != now.level]


def _assess(
    serverdir: Serverdir,
    store: Store,
    position: Position,
    found: list[Standing],
    now: Report | None,
) -> Promotion:
    serial = store.last_serial()
    content = (one.only(harmless=False) for one in (*found, *([found_now(now)] if now else [])))
    against = distinct(content)
    # Its serials differ: it may have been upgraded after changes that the standby lacks.
    doubt = position.why if isinstance(position.error, NewerPrimary) else None
    return Promotion(
        serverdir=str(serverdir),
        storage=str(serverdir.storage()),
        serial=serial,
        primary_serial=position.serial,
        reachable=position.own is not None or doubt is not None,
        unreachable=None if doubt else position.why,
        lost_serials=max(0, (position.serial or 0) - serial),
        missing_files=store.missing_private_files(),
        findings={kind: number for one in against for kind, number in one.kinds.items()},
        found=tuple(f"{one} (`verify --level {one.level}` at {one.finished})" for one in against),
        warnings=(*_warnings(serverdir, now.findings if now else []), *_noted_warnings(found)),
        uuid="",
        dry_run=False,
        doubt=doubt,
        last_contact=contact.contacted_at if (contact := store.contact()) else None,
    )


def _warnings(serverdir: Serverdir, findings: list[Finding]) -> Iterator[str | Hint]:
    """Yield the permission findings of the verification just now, each with a command that helps."""
    mount = read_only(serverdir.files) if serverdir.files.exists() else None
    if mount is not None:
        yield f"the file system at {mount} is read-only: the server cannot store files until it is writable"
    wrong = [one for one in findings if one.kind == PERMISSIONS]
    for one in wrong[:_NAMED]:
        path = serverdir.root / one.subject
        bits, its_owner, _ = one.expected.partition(" for its owner")
        command = chmod(f"u+{bits.replace('-', '')}", path) if its_owner else None
        helps = one.remedy or Hint("run {}", command or Advice("verify", repair=True))
        yield Hint(
            "permissions of {}: expected {}, found {}; {}", quoted(path), one.expected, one.found, helps
        )
    if len(wrong) > _NAMED:
        yield f"permissions: and {len(wrong) - _NAMED} more"


def _reminders(
    serverdir: Serverdir, store: Store, source: Source, position: Position
) -> Iterator[str | Hint]:
    """Yield reminders for the operator, which do not prevent a promotion."""
    if (writer := serverdir.locked_by()) not in (None, str(os.getpid())):
        yield f"another replisync (process {writer}) writes to it: stop it before the promotion"
    if position.error is not None and position.error.details.get("answered_by") == source.uuid:
        yield "a devpi-server serves this serverdir: stop it before the new primary starts"
    nameless = sum(fault.kind == UNFETCHABLE for fault in store.faults())
    if nameless:
        yield Hint(
            "{} files that can never be fetched are missing: see {}", str(nameless), Advice("faults list")
        )


def _noted_warnings(found: list[Standing]) -> Iterator[Hint]:
    for one in distinct(each.only(harmless=True) for each in found):
        yield Hint(
            "{} (`verify --level {}` at {}); run {} before the promotion",
            str(one),
            one.level,
            one.finished,
            Advice("verify", repair=True, level=one.level),
        )


def _refuse_twins(promotion: Promotion, choices: Choices) -> None:
    """Raise ConditionFailed if two servers with one UUID would run."""
    if not (choices.keep_identity and promotion.reachable):
        return
    error = ConditionFailed(
        f"cannot promote {promotion.serverdir}",
        "the old primary still answers, and both would have its UUID",
        serial=promotion.serial,
        hint="stop the old primary for good first, or accept two servers with one UUID with --accept-loss",
    )
    error.details = asdict(promotion)
    raise error


def _refuse_loss(promotion: Promotion, position: Position, level: str, *, diverged: bool) -> None:
    """Raise ConditionFailed, with all losses, if something would be lost.

    level: of the verification that can confirm a repair.
    """
    whys: list[str] = []
    first: list[str] = []
    catchup = f"{Advice('catchup')}" + ("" if promotion.reachable else " (once the primary answers)")
    if promotion.doubt:
        what = "a server answers at the primary's URL, but its content is unknown"
        whys.append(f"{what}: {promotion.doubt}")
    if promotion.lost_serials:
        ahead = f"the primary is at serial {position.serial}, {promotion.lost_serials} ahead of ours"
        if position.own is None:
            whys.append(f"{ahead} ({position.why})")
        elif position.own == position.serial:
            whys.append(ahead)
        else:
            whys.append(f"{ahead}, or was: it says {position.own} now, as after a restore from a backup")
        status = f"{Advice('status')} (its history is not ours)"
        first.append(status if diverged else catchup)
    if promotion.missing_files:
        whys.append(f"{promotion.missing_files} files of private stages are missing")
        first += [str(Advice("faults list")), catchup]
    if promotion.findings:
        whys.append(f"findings that were not repaired: {', '.join(promotion.found)}")
        secret = {"replica_keyfile": "F"} if promotion.reachable else {}
        first.append(str(Advice("verify", repair=True, level=level, **secret)))
    if not whys:
        return
    steps = ["stop that server"] if promotion.doubt else []
    steps += [f"run {', '.join(dict.fromkeys(first))}"] if first else []
    error = ConditionFailed(
        f"cannot promote {promotion.serverdir}",
        "; ".join(whys),
        serial=promotion.serial,
        hint=f"{', '.join(steps)} first, or accept the loss with --accept-loss",
    )
    error.details = asdict(promotion)
    raise error
