"""Making a standby startable as primary."""

from dataclasses import dataclass, replace

from replisync import clock
from replisync.denied import read_only
from replisync.errors import ConditionFailed, NewerPrimary, PrimaryRefused, PrimaryUnreachable, WrongHistory
from replisync.serverdir import Serverdir
from replisync.settle import settle
from replisync.standby import ASK_SECONDS, Settings, connection, existing_standby, target_files
from replisync.store.base import Store
from replisync.store.records import Source
from replisync.tls import Tls

# An event serial of nothing handled: devpi-server hands all of the history to its plugins again.
_NOTHING_HANDLED = -1


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did, or would do.

    storage: devpi-server's spelling of it, without the password.
    primary_serial: the old primary's serial as far as anybody knows; None where nobody does.
    reachable: whether the old primary still answers; it must not be written to any more.
    lost_serials: how many of its serials the standby does not have.
    missing_files: how many files of private stages are not there.
    doubt: why it is not known what the old primary has, although it answers; None where it is.
    deleted_files: how many files stay in place that the primary deleted, since we may not move them.
    read_only: why the server will be able to store no file; None where it will.
    """

    serverdir: str
    storage: str
    serial: int
    primary_serial: int | None
    reachable: bool
    lost_serials: int
    missing_files: int
    uuid: str
    dry_run: bool
    doubt: str | None = None
    deleted_files: int = 0
    read_only: str | None = None


def promote(
    serverdir: Serverdir,
    *,
    accept_loss: bool = False,
    keep_identity: bool = False,
    replay_events: bool = False,
    dry_run: bool = False,
    tls: Tls | None = None,
) -> Promotion:
    """Check that a standby is complete, and set its role to primary.

    accept_loss: go on although the primary is known to have more, or files are missing.
    keep_identity: take the old primary's UUID, so that its other replicas go on with this one.
    replay_events: let devpi-server's plugins see all of the history again.
    dry_run: change nothing.
    tls: how the old primary is asked where it is.
    Raises TargetUnusable where it is no complete standby or replisync writes to it, ConditionFailed where
    something would be lost.
    """
    with existing_standby(serverdir, promoting=True) as (store, source):
        serverdir.check_path()
        settings = Settings(tls=tls or Tls(), silence=ASK_SECONDS)
        promotion = _assess(serverdir, store, source, settings, keep_identity=keep_identity, dry_run=dry_run)
        if not accept_loss:
            _refuse_loss(promotion, diverged=store.divergence() is not None)
        if dry_run:
            return promotion
        held = settle(store, target_files(serverdir, store), retain=True)
        promotion = replace(promotion, deleted_files=len(held))
        serverdir.write_event_serial(_NOTHING_HANDLED if replay_events else promotion.serial)
        # Whoever else has this database, through a copy of the serverdir, must not write to it any more.
        store.put_source(replace(source, promoted=clock.now()))
        store.back_to_devpi()
        # The role is last: once it is there, devpi-server starts as primary.
        info = serverdir.nodeinfo() or {}
        info = {key: info[key] for key in info if key not in ("masterurl", "master-uuid")}
        serverdir.write_nodeinfo({**info, "role": "primary", "uuid": promotion.uuid})
        return promotion


def _assess(
    serverdir: Serverdir,
    store: Store,
    source: Source,
    settings: Settings,
    *,
    keep_identity: bool,
    dry_run: bool,
) -> Promotion:
    serial = store.last_serial()
    contact = store.contact()
    primary_serial = contact.primary_serial if contact else None
    reachable, doubt = True, None
    try:
        with connection(
            settings, source.primary_url, source.uuid, source.primary_uuid, secret=False
        ) as primary:
            primary_serial = primary.hello().serial
    except NewerPrimary as err:
        # Its serials are others: it may have been upgraded after changes that the standby does not have.
        doubt = err.why
    except (PrimaryUnreachable, PrimaryRefused, WrongHistory):
        reachable = False
    return Promotion(
        serverdir=str(serverdir),
        storage=str(serverdir.storage()),
        serial=serial,
        primary_serial=primary_serial,
        reachable=reachable,
        lost_serials=max(0, (primary_serial or 0) - serial),
        missing_files=store.missing_private_files(),
        uuid=source.primary_uuid if keep_identity else source.uuid,
        dry_run=dry_run,
        doubt=doubt,
        deleted_files=len(store.pending()),
        read_only=_read_only(serverdir),
    )


def _read_only(serverdir: Serverdir) -> str | None:
    mount = read_only(serverdir.files) if serverdir.files.exists() else None
    return None if mount is None else f"the file system at {mount} is read-only"


def _refuse_loss(promotion: Promotion, *, diverged: bool) -> None:
    attempted = f"promotion of {promotion.serverdir}"
    if promotion.doubt:
        raise ConditionFailed(
            f"cannot promote {promotion.serverdir}",
            f"a server answers at the primary's URL, and it is not known what it has: {promotion.doubt}",
            serial=promotion.serial,
            hint="where this standby is to take its place, stop that server, then promote with --accept-loss",
        )
    if promotion.lost_serials:
        raise ConditionFailed(
            attempted,
            f"the primary is at serial {promotion.primary_serial}, {promotion.lost_serials} ahead",
            serial=promotion.serial,
            hint="its history is not ours (see `replisync status`): --accept-loss where ours is to be kept"
            if diverged
            else "`replisync catchup` first, or --accept-loss where the primary is gone for good",
        )
    if promotion.missing_files:
        raise ConditionFailed(
            attempted,
            f"{promotion.missing_files} files of private stages are not here",
            serial=promotion.serial,
            hint="`replisync faults list` names them; `replisync catchup` first, or --accept-loss",
        )
