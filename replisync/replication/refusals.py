"""Decide about files that could not be fetched: does their serial wait for them, or continue without?"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from replisync.changelog.plan import Batch
from replisync.changelog.records import HELD, MIRROR, SKIPPED, UNFETCHABLE, Fault
from replisync.devpi.keys import index_of, index_type, user_key
from replisync.errors import FilesMissing
from replisync.replication.fetch import TOO_BIG, Refused
from replisync.standby.database.store import Store
from replisync.system import clock

# A mirror's file that could not be fetched is retried after an hour, then half a day, then daily.
_RETRY_FIRST_SECONDS = 3600
RETRY_LAST_SECONDS = 86400

# Statuses of the primary for a file that an upstream no longer has, or cannot be asked for; and our own.
_LASTING = frozenset({404, 502, TOO_BIG})

# A file that arrived and was wrong is retried after a wait that doubles with each try beyond the first few: a
# proxy that keeps a broken copy would deliver it for ever.
_COSTLY_FREE = 3
_COSTLY_FIRST_SECONDS = 60
_COSTLY_LAST_SECONDS = 3600

# A refusal that may be transient (a silent upstream, a wrong digest) holds a serial for this number of tries.
_MIRROR_TRIES = 2


@dataclass(slots=True)
class Judgement:
    """The decision about the refused files of a batch."""

    absent: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    held: list[Fault] = field(default_factory=list)


def judge(store: Store, refused: Sequence[Refused], batch: Batch | None = None) -> Judgement:
    """Decide about files that could not be fetched.

    store: knows the types of the files' indexes, and earlier tries.
    batch: the entries to commit; its values of users take precedence over stored ones.
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
    elif known is not None and known.kind == SKIPPED:
        verdict.faults.append(fault_of(refusal, SKIPPED))
    elif kind == "mirror" and (status in _LASTING or (known is not None and known.tries >= _MIRROR_TRIES)):
        verdict.faults.append(fault_of(refusal, MIRROR, _RETRY_FIRST_SECONDS))
    else:
        same = known is not None and known.serial == refusal.file.serial
        verdict.held.append(fault_of(refusal, HELD, _wait_of(refusal, known.tries if known and same else 0)))


def _wait_of(refusal: Refused, tries: int) -> float | None:
    """Return the seconds before a held file is asked for again; None for none."""
    if not refusal.costly or tries < _COSTLY_FREE:
        return None
    return min(_COSTLY_LAST_SECONDS, _COSTLY_FIRST_SECONDS << min(tries - _COSTLY_FREE, 10))


def _type_of(store: Store, index: str, batch: Batch | None) -> str | None:
    user = user_key(index)
    if batch is not None and user in batch.users:
        return index_type(batch.users[user], index)
    return store.index_type(index)


def wait_after(tries: int) -> int:
    """Return the seconds to wait after this number of tries before the next one."""
    return min(RETRY_LAST_SECONDS, _RETRY_FIRST_SECONDS << min(tries, 10))


def fault_of(refusal: Refused, kind: str, retry_in: float | None = None) -> Fault:
    """Return the fault of a file that was refused.

    retry_in: seconds until the retry, or longer if the server asks for that; None if there is no timed one.
    """
    file = refusal.file
    waits = [wait for wait in (retry_in, refusal.retry_after) if wait is not None]
    # No header of one file may stop a standby for a day.
    longest = _COSTLY_LAST_SECONDS if kind == HELD else RETRY_LAST_SECONDS
    next_try = clock.later(min(longest, max(waits))) if waits else None
    return Fault(file.relpath, file.serial, kind, refusal.reason, 1, next_try)


def missing(held: list[Fault]) -> FilesMissing:
    """Return the error for files that hold a serial back."""
    first = min(held, key=lambda fault: fault.serial)
    others = f", and {len(held) - 1} more" if len(held) > 1 else ""
    wait = f"; next try at {first.next_try}" if first.next_try else ""
    return FilesMissing(f"cannot fetch {first.relpath}{others}", first.reason + wait, serial=first.serial)
