"""Making a standby startable as primary."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

from replisync.changelog.records import UNFETCHABLE, Source
from replisync.errors import ConditionFailed, LocalFailure, NewerPrimary, TargetUnusable
from replisync.monitoring.position import Position, ask_position
from replisync.primary.access import Access
from replisync.primary.tls import Tls
from replisync.replication.context import Context
from replisync.replication.settle import settle
from replisync.session.settings import ASK_SECONDS
from replisync.standby.database.store import Store
from replisync.standby.opening import existing_standby, target_files
from replisync.standby.serverdir import Serverdir
from replisync.system import clock
from replisync.system.advice import chmod, quoted
from replisync.system.denied import read_only
from replisync.verify.findings import DATABASE, PERMISSIONS, Finding, Report
from replisync.verify.run import Level, look, readable, subject_of
from replisync.verify.standing import Standing, distinct, found_now, standing

# An event serial of nothing handled: devpi-server hands all of the history to its plugins again.
_NOTHING_HANDLED = -1

# Findings about permissions that are named one by one.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did, or would do.

    storage: devpi-server's spelling of it, without the password.
    primary_serial: the one that the old primary is known to have reached; None where none is known.
    reachable: whether the old primary itself still answers; it must not be written to any more.
    unreachable: why it does not, in one clause, such as which other server answers; None where it does.
    lost_serials: how many of its serials the standby does not have.
    missing_files: how many files of private stages are not there.
    findings: how many of each kind stand against it, by verifications that were not cleared, and by a quick
        one just now.
    found: the same in words, by verification.
    warnings: what may keep devpi-server from using the serverdir, each with what helps.
    doubt: why it is not known what the old primary has, although it answers; None where it is.
    last_contact: when the old primary was last heard of; None where that is not known.
    deleted_files: how many files stay in place that the primary deleted, since we may not move them; 0 where
        nothing is changed, as none was to be moved.
    """

    serverdir: str
    storage: str
    serial: int
    primary_serial: int | None
    reachable: bool
    unreachable: str | None
    lost_serials: int
    missing_files: int
    findings: dict[str, int]
    found: tuple[str, ...]
    warnings: tuple[str, ...]
    uuid: str
    dry_run: bool
    doubt: str | None = None
    last_contact: str | None = None
    deleted_files: int = 0


@dataclass(frozen=True, slots=True)
class Choices:
    """What an operator decides of a promotion.

    accept_loss: go on although the primary is known to have more, files are missing, or findings of a
        verification stand.
    keep_identity: take the old primary's UUID, so that its other replicas go on with this one.
    replay_events: let devpi-server's plugins see all of the history again.
    dry_run: change nothing.
    """

    accept_loss: bool = False
    keep_identity: bool = False
    replay_events: bool = False
    dry_run: bool = False


def promote(serverdir: Serverdir, context: Context, choices: Choices, tls: Tls) -> Promotion:
    """Check that a standby is complete, and set its role to primary.

    tls: how the old primary is asked where it is.
    Raises TargetUnusable where it is no complete standby or replisync writes to it, ConditionFailed where
    something would be lost.
    """
    access = Access(tls=tls, silence=ASK_SECONDS)
    with existing_standby(serverdir, promoting=True) as (store, source):
        serverdir.check_path()
        position = ask_position(store.contact(), source, access)
        now, found = _verified(serverdir, store, source, context)
        promotion = _assess(serverdir, store, position, found, now)
        promotion = replace(
            promotion,
            uuid=source.primary_uuid if choices.keep_identity else source.uuid,
            dry_run=choices.dry_run,
            warnings=(*promotion.warnings, *_reminders(store, source, position)),
        )
        if not choices.accept_loss:
            level = found[0].level if found else str(Level.QUICK)
            _refuse_loss(promotion, position, level, diverged=store.divergence() is not None)
        if choices.dry_run:
            return promotion
        held = settle(store, target_files(serverdir, store), retain=True)
        promotion = replace(promotion, deleted_files=len(held))
        serverdir.write_event_serial(_NOTHING_HANDLED if choices.replay_events else promotion.serial)
        # Whoever else has this database, through a copy of the serverdir, must not write to it any more.
        store.put_source(replace(source, promoted=clock.now()))
        store.back_to_devpi()
        # The role is last: once it is there, devpi-server starts as primary.
        info = serverdir.nodeinfo() or {}
        info = {key: info[key] for key in info if key not in ("masterurl", "master-uuid")}
        serverdir.write_nodeinfo({**info, "role": "primary", "uuid": promotion.uuid})
        return promotion


def _verified(
    serverdir: Serverdir, store: Store, source: Source, context: Context
) -> tuple[Report | None, list[Standing]]:
    """Return what a verification at the level quick finds now, and what stands of earlier ones.

    No verification is made where a promotion was interrupted, which has made one.
    """
    began = clock.now()
    try:
        found = standing(store)
        if source.promoted is not None:
            return None, found
        # A reader of its own: what is damaged is hidden from it, and must not be from who writes.
        with readable(serverdir) as reader:
            now = look(partial(subject_of, serverdir, reader, source, context), Level.QUICK)
    except (TargetUnusable, LocalFailure) as err:
        # A database that cannot be read through may be all that is left: it is a loss to be accepted.
        damage = Finding(DATABASE, err.why, None, "a database that can be read", err.why)
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
    # It clears what an earlier one of its level found.
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
    # Its serials are others: it may have been upgraded after changes that the standby does not have.
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


def _warnings(serverdir: Serverdir, findings: list[Finding]) -> Iterator[str]:
    """Yield what a look just now found of permissions, each with the command that helps."""
    mount = read_only(serverdir.files) if serverdir.files.exists() else None
    if mount is not None:
        yield f"the file system at {mount} is read-only: the server can store no file until it is writable"
    wrong = [one for one in findings if one.kind == PERMISSIONS]
    for one in wrong[:_NAMED]:
        path = serverdir.root / one.subject
        bits, its_owner, _ = one.expected.partition(" for its owner")
        command = chmod(f"u+{bits.replace('-', '')}", path) if its_owner else None
        helps = one.remedy or (f"run {command or '`replisync verify --repair`'}")
        yield f"permissions of {quoted(path)}: expected {one.expected}, found {one.found}; {helps}"
    if len(wrong) > _NAMED:
        yield f"permissions: and {len(wrong) - _NAMED} more"


def _reminders(store: Store, source: Source, position: Position) -> Iterator[str]:
    """Yield what a promotion does not wait for, and its operator should know."""
    if position.error is not None and position.error.details.get("answered_by") == source.uuid:
        yield "a devpi-server serves this serverdir: stop it before the new primary starts"
    nameless = sum(fault.kind == UNFETCHABLE for fault in store.faults())
    if nameless:
        yield f"{nameless} files that can never be fetched are missing; `replisync faults list` names them"


def _noted_warnings(found: list[Standing]) -> Iterator[str]:
    for one in distinct(each.only(harmless=True) for each in found):
        yield (
            f"{one} (`verify --level {one.level}` at {one.finished}); run "
            f"`replisync verify --repair --level {one.level}` before the promotion"
        )


def _refuse_loss(promotion: Promotion, position: Position, level: str, *, diverged: bool) -> None:
    """Raise ConditionFailed where something would be lost, with all of that.

    level: of the verification that shows whether a repair has helped.
    """
    whys: list[str] = []
    first: list[str] = []
    catchup = "`replisync catchup`" + ("" if promotion.reachable else " (once the primary answers)")
    if promotion.doubt:
        what = "a server answers at the primary's URL, and it is not known what it has"
        whys.append(f"{what}: {promotion.doubt}")
    if promotion.lost_serials:
        ahead = f"the primary is at serial {position.serial}, {promotion.lost_serials} ahead of ours"
        if position.own is None:
            whys.append(f"{ahead} ({position.why})")
        elif position.own == position.serial:
            whys.append(ahead)
        else:
            whys.append(f"{ahead}, or was: it says {position.own} now, as after a restore from a backup")
        status = "`replisync status` (its history is not ours)"
        first.append(status if diverged else catchup)
    if promotion.missing_files:
        whys.append(f"{promotion.missing_files} files of private stages are not here")
        first += ["`replisync faults list`", catchup]
    if promotion.findings:
        whys.append(f"findings that were not repaired: {', '.join(promotion.found)}")
        secret = " --replica-keyfile F" if promotion.reachable else ""
        first.append(f"`replisync verify --repair --level {level}{secret}`")
    if not whys:
        return
    steps = ["stop that server"] if promotion.doubt else []
    steps += [f"run {', '.join(dict.fromkeys(first))}"] if first else []
    error = ConditionFailed(
        f"cannot promote {promotion.serverdir}",
        "; ".join(whys),
        serial=promotion.serial,
        hint=f"{', '.join(steps)} first, or give all of that up with --accept-loss",
    )
    error.details = asdict(promotion)
    raise error
