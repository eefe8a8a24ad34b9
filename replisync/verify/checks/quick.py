"""The quick look: positions, the small files, schema, permissions, the newest entries, and counts."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from replisync.changelog.records import ABSENT, WANTED
from replisync.devpi.nodeinfo import plain_url
from replisync.errors import TargetUnusable
from replisync.standby.database import audit
from replisync.standby.database.store import Store
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

# Findings of one kind that the quick look names.
_NAMED = 100


def quick(subject: Subject) -> bool:
    """Look at what needs no look at every entry or file; tell whether there is more to look at."""
    for check in (_schema, _identity, _permissions):
        subject.context.stop.check()
        check(subject)
    if tables_missing(subject.store):
        return False
    for check in (_temporary, _event_serial, _position, _sequence, _serials, _keys, _newest):
        subject.context.stop.check()
        check(subject)
    return True


def tables_missing(store: Store) -> bool:
    """Tell whether there is a table of devpi-server's history, or of ours, that cannot be looked at."""
    names = store.missing_objects()
    return not _HISTORY.isdisjoint(names) or any(map(_is_ours, names))


def _is_ours(name: str) -> bool:
    return name.startswith("replisync_")


def _suspect(subject: Subject, look: Callable[[], Finding | None]) -> None:
    """Look once, and where something is wrong, once more later."""
    found = look()
    if found is not None:
        subject.findings.suspect(found, look)


# The database.


def _schema(subject: Subject) -> None:
    for name in subject.store.missing_objects():

        def look(name: str = name) -> Finding | None:
            if name not in subject.store.missing_objects():
                return None
            maker = "replisync" if _is_ours(name) else "devpi-server"
            return Finding(SCHEMA, name, None, f"as {maker} makes it", "missing, or another")

        _suspect(subject, look)


def _position(subject: Subject) -> None:
    def look() -> Finding | None:
        last, committed = audit.position(subject.store)
        if last == committed:
            return None
        if last < committed:
            found, remedy = f"it ends at serial {last}", ""
        else:
            found = f"it ends at serial {last}: another program wrote to it"
            remedy = (
                "find out which devpi-server wrote to the standby; rebuild it with `replisync clone --reseed`"
            )
        return Finding(
            POSITION, "changelog", committed, f"its end at our last commit, serial {committed}", found, remedy
        )

    _suspect(subject, look)


def _sequence(subject: Subject) -> None:
    def look() -> Finding | None:
        found = subject.store.next_serial()
        if found is None or found[0] == found[1]:
            return None
        return Finding(SEQUENCE, "changelog_serial_seq", None, f"{found[1]} next", f"{found[0]} next")

    _suspect(subject, look)


def _serials(subject: Subject) -> None:
    store = subject.store
    counted = audit.serials(store)
    subject.checked["serials"] = counted.number
    if counted.number == counted.last + 1 and counted.first <= 0:
        return
    after = -1
    for _ in range(_NAMED):
        missing = audit.gap_after(store, after)
        if missing is None:
            return
        subject.findings.suspect(*missing_entry(subject, missing))
        after = missing


def missing_entry(
    subject: Subject, serial: int, last: int | None = None
) -> tuple[Finding, Callable[[], Finding | None]]:
    """Return the finding of an entry that is not there, and the look for it.

    last: the last one of very many that are missing too.
    """
    name = f"serial {serial}" if last is None else f"serials {serial} to {last}"
    finding = Finding(MISSING_ENTRY, name, serial, "an entry", "none")

    def look() -> Finding | None:
        known = audit.key_now(subject.store, "", (serial,))
        return finding if serial <= known.last and serial not in known.data else None

    return finding, look


def _keys(subject: Subject) -> None:
    """Look for keys beyond the end, and for files of the ledger whose key has another serial."""
    store = subject.store
    for row in audit.keys_beyond(store, audit.position(store).last, _NAMED):

        def look(key: str = row.key) -> Finding | None:
            now = audit.key_now(store, key)
            if now.row is None or now.row.serial is None or now.row.serial <= now.last:
                return None
            return Finding(KEY, key, now.last, f"a serial up to {now.last}", f"serial {now.row.serial}")

        _suspect(subject, look)
    explained = audit.explained(store)
    subject.checked["files_known"] = store.file_counts().total
    subject.known["files_missing"] = explained.get(WANTED, 0)
    subject.known["files_absent"] = explained.get(ABSENT, 0)
    subject.known["faults"] = store.fault_count()
    for file, _ in audit.ledger_against_keys(store, _NAMED):

        def look_again(relpath: str = file.relpath) -> Finding | None:
            row, _ = audit.file_now(store, relpath)
            known = audit.key_now(store, relpath).row
            again, _ = audit.file_now(store, relpath)
            if row is None or row != again or (known is not None and known.serial == row.serial):
                return None
            found = "no such key" if known is None else f"serial {known.serial}"
            return Finding(LEDGER, relpath, row.serial, f"a key at serial {row.serial}", found)

        _suspect(subject, look_again)


def _newest(subject: Subject) -> None:
    """Look whether keys and newest entries lead to each other."""
    subject.checked["newest_entries"] = 0
    for problem in newest_chain(subject):

        def look(wanted: tuple[str, str, int | None] = problem.identity) -> Finding | None:
            return next((one for one in newest_chain(subject, count=False) if one.identity == wanted), None)

        subject.findings.suspect(problem, look)


# What lies in the folder.


def _identity(subject: Subject) -> None:
    source, serverdir = subject.source, subject.serverdir

    def look() -> Finding | None:
        try:
            info = serverdir.nodeinfo()
        except TargetUnusable as err:
            return Finding(IDENTITY, ".nodeinfo", None, "what devpi-server writes", err.why)
        if info is None:
            return Finding(IDENTITY, ".nodeinfo", None, "a file", "none")
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
            return None  # promoted with --keep-identity
        wrong = [name for name, value in expected.items() if found[name] != value]
        if not wrong:
            return None
        return Finding(
            IDENTITY,
            ".nodeinfo",
            None,
            ", ".join(f"{name} {expected[name]}" for name in wrong),
            ", ".join(f"{name} {found[name]}" for name in wrong),
        )

    _suspect(subject, look)

    def look_at_version() -> Finding | None:
        found = _text(serverdir.root / ".serverversion")
        if found is not None and re.fullmatch("4([.][0-9]+)*", found):
            return None
        return Finding(STATE_VERSION, ".serverversion", None, "4", "no such file" if found is None else found)

    _suspect(subject, look_at_version)


def _text(path: Path) -> str | None:
    try:
        if not path.is_file():  # such as a pipe, which nobody may ever write to
            return None
        return path.read_text(errors="replace").strip()[:100]
    except OSError:
        return None


def _event_serial(subject: Subject) -> None:
    def look() -> Finding | None:
        text = _text(subject.serverdir.root / ".event_serial")
        last = audit.position(subject.store).last
        # devpi-import leaves it out with --no-events.
        if text is None and subject.source.is_server:
            return None
        if text is not None and re.fullmatch("-?[0-9]{1,18}", text) and int(text) <= last + 1:
            return None
        found = "no such file" if text is None else text
        return Finding(EVENT_SERIAL, ".event_serial", last, f"a number up to {last + 1}", found)

    _suspect(subject, look)


def _permissions(subject: Subject) -> None:
    for finding in wrong_modes(subject.serverdir):

        def look(name: str = finding.subject) -> Finding | None:
            return next((one for one in wrong_modes(subject.serverdir) if one.subject == name), None)

        subject.findings.suspect(finding, look)


def _temporary(subject: Subject) -> None:
    """Look for what interrupted writes left, and no run is going to clear."""
    for path in list(temporary(subject)):

        def look(path: Path = path) -> Finding | None:
            if path not in set(temporary(subject)):
                return None
            name = str(path.relative_to(subject.serverdir.root))
            return Finding(TEMPORARY, name, None, "no such file", "a file that no program uses")

        _suspect(subject, look)


# Our own names in the staging folder.
_STAGED = re.compile("[0-9a-f]{64}")


def temporary(subject: Subject) -> Iterator[Path]:
    """Yield the files that were begun and will not be finished; none while another replisync runs."""
    serverdir, store = subject.serverdir, subject.store
    run = store.last_run()
    kept = {move.staged for move in store.pending()}
    # What a run that was cut short left is cleared by the next one, and no reason to worry.
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
