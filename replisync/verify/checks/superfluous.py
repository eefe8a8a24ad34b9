"""Files that no key demands."""

import errno
import re
from collections.abc import Iterable, Iterator
from functools import partial

from replisync.devpi import FILE_KEYNAMES, parse_stored
from replisync.errors import CorruptEntry
from replisync.standby import audit
from replisync.system import clock
from replisync.verify.checks.allfiles import known_files
from replisync.verify.findings import SUPERFLUOUS_FILE, TEMPORARY, Finding
from replisync.verify.subject import Subject

# The number of names after which to check for a stop.
_SOME = 1000

# devpi-server's names for files that it has not stored yet.
_TEMPORARY = re.compile(r"-tmp$")

# While a devpi-server may be storing files, an unfinished one counts as a leftover after this time.
_UNFINISHED_SECONDS = 3600.0


def superfluous_files(subject: Subject, names: Iterable[bytes]) -> None:
    """Find files that no live key names.

    names: of all files in place.
    """
    for relpath in _unknown(subject, names):
        changed_at = subject.survey.changed_at(relpath)
        subject.findings.suspect(
            _superfluous(subject, relpath), partial(_superfluous_again, subject, relpath, changed_at)
        )


def names_nobody_has(subject: Subject) -> Iterator[str]:
    """Yield the relpaths of superfluous files; no other process may be writing."""
    for relpath in _unknown(subject, subject.survey.names()):
        needed = _linked_folder(subject, relpath)
        if not needed and is_superfluous(subject, relpath, subject.survey.changed_at(relpath)):
            yield relpath


def _unknown(subject: Subject, names: Iterable[bytes]) -> Iterator[str]:
    """Yield the relpaths of files that the ledger does not have."""
    expected = audit.count_of_present(subject.store)
    subject.context.progress.stage("files in place", expected, "files")
    known = (file.relpath.encode() for file in known_files(subject, absent_too=True))
    row = next(known, None)
    count = 0
    for count, name in enumerate(names, 1):
        if not count % _SOME:
            subject.context.stop.check()
            subject.context.progress.advance(_SOME)
        while row is not None and row < name:
            row = next(known, None)
        if row != name:
            yield name.decode(errors="surrogateescape")
    subject.context.progress.advance(count % _SOME)
    subject.checked["files_in_place"] = count


def _linked_folder(subject: Subject, relpath: str) -> bool:
    """Return whether a path is a link to a folder with files that must stay."""
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return False
    path = subject.serverdir.files / relpath
    linked = not subject.store.holds_files and path.is_symlink() and path.is_dir()
    return linked and audit.has_files_below(subject.store, relpath)


def _superfluous(subject: Subject, relpath: str) -> Finding:
    if _linked_folder(subject, relpath):
        remedy = "copy the folder that it leads to into its place, or mount it there"
        return Finding(SUPERFLUOUS_FILE, relpath, None, "a folder", "a link to one", remedy)
    kind = TEMPORARY if _TEMPORARY.search(relpath) else SUPERFLUOUS_FILE
    shown = relpath.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return Finding(kind, shown, None, "no such file", "a file that no key names")


def _superfluous_again(subject: Subject, relpath: str, before: float | None) -> Finding | None:
    return _superfluous(subject, relpath) if is_superfluous(subject, relpath, before) else None


def is_superfluous(subject: Subject, relpath: str, before: float | None) -> bool:
    """Return whether a file is here that no key demands, and that is not being brought.

    before: the time of its last change, by an earlier check.
    """
    if not _is_here(subject, relpath):
        return False
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return True  # no key can have this name
    # Each commit changes the ledger and the notes of moves at once, before and after which a file is in its
    # place. Twice: it may have gone, and come again, between two checks.
    if audit.file_now(subject.store, relpath) != (None, None) or not _is_here(subject, relpath):
        return False
    if audit.file_now(subject.store, relpath) != (None, None):
        return False
    if _TEMPORARY.search(relpath):
        changed_at = subject.survey.changed_at(relpath)
        age = clock.seconds_since_epoch(changed_at) if changed_at is not None else _UNFINISHED_SECONDS
        return changed_at == before and (not subject.in_use() or age >= _UNFINISHED_SECONDS)
    return not _is_link(subject, relpath)  # fetched by a devpi-server; the primary will name it


def _is_here(subject: Subject, relpath: str) -> bool:
    """Return whether anything has this name, a file or not."""
    [seen] = subject.survey.look_at([("", relpath)]).files
    if seen.problem in (errno.ENOENT, errno.ENOTDIR):
        return False
    return seen.size is not None or seen.problem != 0 or subject.survey.changed_at(relpath) is not None


def _is_link(subject: Subject, relpath: str) -> bool:
    """Return whether a key that is not deleted has this path: a mirror link."""
    now = audit.key_now(subject.store, relpath)
    if now.row is None or now.row.serial is None or now.row.keyname not in FILE_KEYNAMES:
        return False
    try:
        changes = parse_stored(now.row.serial, now.data.get(now.row.serial, b""), kinds=FILE_KEYNAMES).changes
    except CorruptEntry:
        return True  # unknown
    change = changes.get(relpath)
    return change is not None and bool(change.value)
