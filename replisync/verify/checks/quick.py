"""The quick check: positions, small files, schema, permissions, newest entries, and counts."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from replisync.changelog import ABSENT, WANTED
from replisync.devpi import plain_url
from replisync.errors import Advice, Hint, TargetUnusable
from replisync.standby import Store, audit
from replisync.verify.checks.chain import newest_chain
from replisync.verify.checks.modes import wrong_modes
from replisync.verify.findings import (
    EVENT_SERIAL,
    IDENTITY,
    KEY,
    LEDGER,
    MISSING_ENTRY,
    POSITION,
    SCHEMA,
    SEQUENCE,
    STATE_VERSION,
    TEMPORARY,
    Finding,
)
from replisync.verify.subject import Subject

_HISTORY = frozenset({"changelog", "kv"})

# The number of findings of one kind that the quick check names.
_NAMED = 100


def quick(subject: Subject) -> bool:
    """Check all that needs no reading of every entry or file; return whether more can be checked."""
    _consider(subject, _schema, _identity, _version, _permissions)
    if tables_missing(subject.store):
        return False
    _consider(subject, _temporary, _event_serial, _position, _sequence, _serials, _keys, _newest)
    _look_at_ledger(subject)
    subject.checked["serials"] = audit.serials(subject.store).number
    explained = audit.explained(subject.store)
    subject.checked["files_known"] = subject.store.file_counts().total
    subject.known["files_missing"] = explained.get(WANTED, 0)
    subject.known["files_absent"] = explained.get(ABSENT, 0)
    subject.known["faults"] = subject.store.fault_count()
    return True


def _consider(subject: Subject, *checks: Callable[[Subject], Iterable[Finding]]) -> None:
    for check in checks:
        subject.context.stop.check()
        subject.findings.consider(partial(check, subject))


def tables_missing(store: Store) -> bool:
    """Return whether a table of devpi-server's history, or of ours, cannot be read."""
    names = store.missing_objects()
    return not _HISTORY.isdisjoint(names) or any(map(_is_ours, names))


def _is_ours(name: str) -> bool:
    return name.startswith("replisync_")


# The database.


def _schema(subject: Subject) -> Iterator[Finding]:
    for name in subject.store.missing_objects():
        maker = "replisync" if _is_ours(name) else "devpi-server"
        yield Finding(SCHEMA, name, None, f"as {maker} makes it", "missing, or another")


def _position(subject: Subject) -> Iterator[Finding]:
    last, committed = audit.position(subject.store)
    if last == committed:
        return
    remedy: str | Hint = ""
    if last < committed:
        found = f"it ends at serial {last}"
    else:
        found = f"it ends at serial {last}: another program wrote to it"
        remedy = Hint(
            "find out which devpi-server wrote to the standby; rebuild it with {}",
            Advice("clone", reseed=True),
        )
    expected = f"its end at our last commit, serial {committed}"
    yield Finding(POSITION, "changelog", committed, expected, found, remedy)


def _sequence(subject: Subject) -> Iterator[Finding]:
    found = subject.store.next_serial()
    if found is not None and found[0] != found[1]:
        yield Finding(SEQUENCE, "changelog_serial_seq", None, f"{found[1]} next", f"{found[0]} next")


def _serials(subject: Subject) -> Iterator[Finding]:
    counted = audit.serials(subject.store)
    if counted.number == counted.last + 1 and counted.first <= 0:
        return
    missing = audit.gap_after(subject.store, -1)
    for _ in range(_NAMED):
        if missing is None:
            return
        yield missing_entry(subject, missing)[0]
        missing = audit.gap_after(subject.store, missing)


def missing_entry(
    subject: Subject, serial: int, last: int | None = None
) -> tuple[Finding, Callable[[], Finding | None]]:
    """Return the finding of a missing entry, and its second check.

    last: the last one of very many that are missing too.
    """
    name = f"serial {serial}" if last is None else f"serials {serial} to {last}"
    finding = Finding(MISSING_ENTRY, name, serial, "an entry", "none")

    def look() -> Finding | None:
        known = audit.key_now(subject.store, "", (serial,))
        return finding if serial <= known.last and serial not in known.data else None

    return finding, look


def _keys(subject: Subject) -> Iterator[Finding]:
    """Find keys with serials after the end."""
    for key, serial, last in audit.keys_beyond(subject.store, _NAMED):
        yield Finding(KEY, key, last, f"a serial up to {last}", f"serial {serial}")


def _look_at_ledger(subject: Subject) -> None:
    """Find files of the ledger whose key has another serial."""
    for file, _ in audit.ledger_against_keys(subject.store, _NAMED):
        look = partial(_other_serial, subject.store, file.relpath)
        found = look()
        if found is not None:
            subject.findings.suspect(found, look)


def _other_serial(store: Store, relpath: str) -> Finding | None:
    row, _ = audit.file_now(store, relpath)
    known = audit.key_now(store, relpath).row
    again, _ = audit.file_now(store, relpath)
    if row is None or row != again or (known is not None and known.serial == row.serial):
        return None
    found = "no such key" if known is None else f"serial {known.serial}"
    return Finding(LEDGER, relpath, row.serial, f"a key at serial {row.serial}", found)


def _newest(subject: Subject) -> Iterator[Finding]:
    """Check that keys and newest entries match."""
    return newest_chain(subject)


# The content of the folder.


def _identity(subject: Subject) -> Iterator[Finding]:
    source = subject.source
    try:
        info = subject.serverdir.nodeinfo()
    except TargetUnusable as err:
        yield Finding(IDENTITY, ".nodeinfo", None, "what devpi-server writes", err.why)
        return
    if info is None:
        yield Finding(IDENTITY, ".nodeinfo", None, "a file", "none")
        return
    expected = {"uuid": source.uuid}
    found = {"uuid": info.get("uuid")}
    if not source.primary_url:
        expected["role"], found["role"] = "standalone", info.get("role")
    elif source.promoted is None:
        expected |= {
            "role": "replica",
            "primary-uuid": source.primary_uuid,
            "masterurl": plain_url(source.primary_url),
        }
        found |= {name: info.get(name) for name in ("role", "masterurl")}
        found["primary-uuid"] = info.get("master-uuid") or info.get("primary-uuid")
    elif info.get("uuid") == source.primary_uuid:
        return  # promoted with --keep-identity
    wrong = [name for name, value in expected.items() if found[name] != value]
    if wrong:
        said = (", ".join(f"{name} {values[name]}" for name in wrong) for values in (expected, found))
        yield Finding(IDENTITY, ".nodeinfo", None, *said)


def _version(subject: Subject) -> Iterator[Finding]:
    found = _text(subject.serverdir.root / ".serverversion")
    if found is None or not re.fullmatch("4([.][0-9]+)*", found):
        yield Finding(STATE_VERSION, ".serverversion", None, "4", "no such file" if found is None else found)


def _text(path: Path) -> str | None:
    try:
        if not path.is_file():  # such as a pipe without a writer
            return None
        return path.read_text(errors="replace").strip()[:100]
    except OSError:
        return None


def _event_serial(subject: Subject) -> Iterator[Finding]:
    text = _text(subject.serverdir.root / ".event_serial")
    last = audit.position(subject.store).last
    # devpi-import omits it with --no-events.
    if text is None and subject.source.is_server:
        return
    if text is None or not re.fullmatch("-?[0-9]{1,18}", text) or int(text) > last + 1:
        found = "no such file" if text is None else text
        yield Finding(EVENT_SERIAL, ".event_serial", last, f"a number up to {last + 1}", found)


def _permissions(subject: Subject) -> Iterator[Finding]:
    return wrong_modes(subject.serverdir)


def _temporary(subject: Subject) -> Iterator[Finding]:
    """Find leftovers of interrupted writes that no run is going to remove."""
    for path in temporary(subject):
        name = str(path.relative_to(subject.serverdir.root))
        yield Finding(TEMPORARY, name, None, "no such file", "a file that no program uses")


# Our own names in the staging folder.
_STAGED = re.compile("[0-9a-f]{64}")


def temporary(subject: Subject) -> Iterator[Path]:
    """Yield the files that were begun and will not be finished; none while another replisync runs."""
    serverdir, store = subject.serverdir, subject.store
    run = store.last_run()
    kept = {move.staged for move in store.pending()}
    # The next run removes the leftovers of an interrupted one: they are harmless.
    cut_short = run is not None and run.outcome != "ok"
    found = list(_listed(serverdir.tmp))
    if subject.in_use():
        return
    for path in found:
        ours = _STAGED.fullmatch(path.name) is not None
        if path.name not in kept and not (ours and cut_short and not subject.alone):
            yield path
    for path in (*_listed(serverdir.root), *_listed(serverdir.own)):
        if path.name.endswith(".replisync-tmp"):
            yield path


def _listed(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    yield from (folder / name for name in names)
