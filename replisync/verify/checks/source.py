"""The recorded source of the standby: is it consistent?"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from replisync.changelog import Source
from replisync.devpi import parse_stored
from replisync.errors import Advice, CorruptEntry, Hint, TargetUnusable
from replisync.standby import Serverdir, Store, audit
from replisync.system import is_time
from replisync.verify.checks.primary import Agreement, Ask
from replisync.verify.findings import SOURCE, Finding
from replisync.verify.subject import Subject

_EXPORT = "export"
_KINDS = ("changelog", "base-copy", _EXPORT)

_TABLE = "replisync_source"
_TIP = "replisync_tip"

_ANEW = Hint("its record is lost: rebuild it with {}", Advice("clone", reseed=True))
_PROMOTED = Hint(
    "if its promotion was interrupted, run {} again; otherwise clone into an empty serverdir",
    Advice("promote"),
)
_ASK = "let it ask the primary: --secretfile or --replica-keyfile"


class _Problem(NamedTuple):
    column: str
    expected: str
    found: object
    remedy: str | Hint = ""


def usable(source: Source, store: Store, last: int) -> Source:
    """Return a source that a verification can use; invalid values become findings.

    last: the last serial.
    """
    if source.seed_kind != _EXPORT:
        return source
    serial = source.seed_serial
    if serial is None or not 0 <= serial <= last:
        # Then no entry can be called the primary's own.
        return replace(source, seed_serial=max(last, serial or 0))
    return replace(source, seed_serial=_end_of_seed(store, serial))


def _end_of_seed(store: Store, serial: int) -> int:
    """Return the last serial of entries of an export, given the recorded one.

    The import ended with a commit. A serial that is too high does no harm; with one that is too low, entries
    of the export would be taken for the primary's, and replaced.
    """
    return store.commit_of(serial)[0]


def is_handed_over(serverdir: Serverdir, source: Source) -> bool:
    """Return whether a clone was completed, whatever its database says: `.nodeinfo` comes last."""
    return is_replica(serverdir, source.uuid)


def is_replica(serverdir: Serverdir, uuid: str | None = None) -> bool:
    """Return whether `.nodeinfo` is that of a replica with this UUID."""
    try:
        info = serverdir.nodeinfo() or {}
    except TargetUnusable:
        return False
    return info.get("role") == "replica" and uuid in (None, info.get("uuid"))


def look_at_source(subject: Subject) -> None:
    """Check that the record is consistent, and matches the history."""
    subject.findings.consider(lambda: map(_finding, _problems(subject)))
    subject.findings.consider(partial(_look_at_tip, subject))


def _look_at_tip(subject: Subject) -> Iterator[Finding]:
    why = wrong_tip(subject)
    if why is not None:
        yield Finding(SOURCE, _TIP, None, *why)


def _finding(one: _Problem) -> Finding:
    found = "nothing" if one.found is None else repr(one.found)[:80]
    return Finding(SOURCE, f"{_TABLE} {one.column}", None, one.expected, found, one.remedy)


def _problems(subject: Subject) -> Iterator[_Problem]:
    source = subject.store.source()
    if source is None:
        return
    last = audit.position(subject.store).last
    exported = source.seed_kind == _EXPORT
    if source.seed_kind not in _KINDS:
        yield _Problem("seed_kind", "one of " + ", ".join(_KINDS), source.seed_kind, _ANEW)
    # A standby that was rewound may end before its seed, unless that was an export.
    serial = source.seed_serial
    if serial is None or serial < 0 or (exported and serial > last):
        yield _Problem("seed_serial", f"a serial up to {last}", serial, _ANEW if exported else "")
    elif exported and (end := _end_of_seed(subject.store, serial)) != serial:
        yield _Problem("seed_serial", f"serial {end}, with which a commit ended", serial)
    for column in ("seed_started", "seed_finished", "promoted"):
        value = getattr(source, column)
        if value is None and column == "promoted":
            continue
        if value is None or not is_time(value):
            yield _Problem(column, "a time", value, _PROMOTED if column == "promoted" else "")
        elif column == "promoted" and is_handed_over(subject.serverdir, source):
            yield _Problem(column, "nothing, as long as it is a replica", value, _PROMOTED)


def wrong_tip(subject: Subject) -> tuple[str, str] | None:
    """Return what is expected of the primary's own bytes of our last entry, and what is found."""
    tip, last, ours = audit.tip_now(subject.store)
    if subject.source.seed_kind != _EXPORT:
        return None if tip is None else ("none, as our entries are the primary's", f"one of serial {tip[0]}")
    if not subject.source.primary_url:
        return None
    expected = f"the primary's entry at serial {last}"
    if tip is None:
        return expected, "none"
    if tip[0] != last:
        return expected, f"one of serial {tip[0]}"
    try:
        theirs = parse_stored(last, tip[1])
    except CorruptEntry as err:
        return expected, err.why
    agreement = Agreement(subject.store, subject.source)
    if last >= agreement.first and ours is not None and not agreement.same(last, ours, theirs):
        return expected, "an entry with other content than ours"
    return None


# Repair.


def repair_source(subject: Subject, ask: Ask | None, now: str) -> dict[object, str | Hint]:
    """Correct the values that can be known; return why others stay as they are, by subject."""
    store = subject.store
    known = store.source()
    problems = {one.column: one for one in _problems(subject)}
    values: dict[str, object] = {}
    began = audit.first_commit_at(store) or now
    for column, value in (("seed_started", began), ("seed_finished", now)):
        if column in problems:
            values[column] = value
    if "seed_serial" in problems and not problems["seed_serial"].remedy:
        # Otherwise it is only shown: by then the clone was complete.
        exported = known is not None and known.seed_kind == _EXPORT
        values["seed_serial"] = subject.source.seed_serial if exported else audit.cloned_to(store)
    if known is not None and values:
        store.put_source(replace(known, **values))  # type: ignore[arg-type]
    if wrong_tip(subject) is None:
        return {}
    reason = _repair_tip(subject, ask)
    return {} if reason is None else {_TIP: reason}


def _repair_tip(subject: Subject, ask: Ask | None) -> str | Hint | None:
    """Correct the primary's own bytes of our last entry; return why that is impossible, or None."""
    store = subject.store
    tip, last, ours = audit.tip_now(store)
    exported = subject.source.seed_kind == _EXPORT
    if not exported and tip is not None and tip[0] != last:
        store.put_tip(None)
        return None
    if ask is None:
        return _ASK
    theirs = ask(last)
    agreement = Agreement(store, subject.source)
    if theirs is None or ours is None or last < agreement.first or not agreement.same(last, ours, theirs):
        return Hint("our last entry is not the primary's: rebuild it with {}", Advice("clone", reseed=True))
    store.put_tip((last, theirs.data) if exported else None)
    return None
