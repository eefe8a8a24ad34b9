"""What it means that a file could not be had: whether its serial waits for it, or goes on without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from replisync.changelog.plan import Batch
from replisync.changelog.records import UNFETCHABLE, Fault
from replisync.devpi.keys import index_of, index_type, user_key
from replisync.errors import FilesMissing
from replisync.replication.fetch import TOO_BIG, Refused
from replisync.standby.database.store import Store
from replisync.system import clock

# A mirror's file that could not be had is asked for again after an hour, then half a day, then daily.
_RETRY_FIRST_SECONDS = 3600
RETRY_LAST_SECONDS = 86400

# What the primary says where an upstream does not have a file any more, or cannot be asked; and what we say.
_LASTING = frozenset({404, 502, TOO_BIG})

# What may pass, such as a silent upstream or a wrong digest, holds a serial for so many tries.
_MIRROR_TRIES = 2


@dataclass(slots=True)
class Judgement:
    """What the refused files of a batch mean."""

    absent: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    held: list[Fault] = field(default_factory=list)


def judge(store: Store, refused: Sequence[Refused], batch: Batch | None = None) -> Judgement:
    """Tell what it means that files could not be had.

    store: knows the kinds of the files' indexes, and earlier tries.
    batch: what is about to be committed; its values of users count before those that are stored.
    """
    verdict = Judgement()
    known = store.faults_of(refusal.file.relpath for refusal in refused)
    for refusal in refused:
        kind = _type_of(store, index_of(refusal.file.relpath), batch)
        _judge_one(refusal, verdict, kind, known.get(refusal.file.relpath))
    return verdict


def _judge_one(refusal: Refused, verdict: Judgement, kind: str | None, known: Fault | None) -> None:
    relpath, status = refusal.file.relpath, refusal.status
    if status == 410:
        verdict.absent[relpath] = "the primary deleted it later"
    elif kind is None and status == 404:
        verdict.absent[relpath] = "its index is gone"
    elif kind == "mirror" and 300 <= status < 400:
        verdict.absent[relpath] = "clients are sent to its external URL"
    elif status == 0:
        verdict.faults.append(fault_of(refusal, UNFETCHABLE))
    elif known is not None and known.kind == "skipped":
        verdict.faults.append(fault_of(refusal, "skipped"))
    elif kind == "mirror" and (status in _LASTING or (known is not None and known.tries >= _MIRROR_TRIES)):
        verdict.faults.append(fault_of(refusal, "mirror", _RETRY_FIRST_SECONDS))
    else:
        verdict.held.append(fault_of(refusal, "held"))


def _type_of(store: Store, index: str, batch: Batch | None) -> str | None:
    user = user_key(index)
    if batch is not None and user in batch.users:
        return index_type(batch.users[user], index)
    return store.index_type(index)


def wait_after(tries: int) -> int:
    """Return the seconds to wait after so many tries before the next one."""
    return min(RETRY_LAST_SECONDS, _RETRY_FIRST_SECONDS << min(tries, 10))


def fault_of(refusal: Refused, kind: str, retry_in: float | None = None) -> Fault:
    """Return the fault of a file that was refused.

    retry_in: seconds until it is asked for again; None where that is not by time.
    """
    file = refusal.file
    next_try = None if retry_in is None else clock.later(retry_in)
    return Fault(file.relpath, file.serial, kind, refusal.reason, 1, next_try)


def missing(held: list[Fault]) -> FilesMissing:
    """Return the error that names files which hold a serial back."""
    first = min(held, key=lambda fault: fault.serial)
    others = f", and {len(held) - 1} more" if len(held) > 1 else ""
    return FilesMissing(f"cannot fetch {first.relpath}{others}", first.reason, serial=first.serial)
