"""Every file that must be present: its existence, its size, and its digest."""

import errno
import os
from collections.abc import Iterator
from functools import partial

from replisync.changelog import PRESENT, Pending
from replisync.devpi import Digest
from replisync.errors import NotPermitted
from replisync.standby import LedgerFile, Seen, audit
from replisync.system import DENIED, who
from replisync.verify import owner as access
from replisync.verify.checks.allfiles import look_at, looked_at
from replisync.verify.findings import (
    FILE_DIGEST,
    FILE_SIZE,
    LEDGER,
    MISSING_FILE,
    PENDING_MOVE,
    PERMISSIONS,
    Finding,
)
from replisync.verify.owner import Folders, Owner, folder_lacks
from replisync.verify.subject import Subject

# The number of notes to check at a time.
_PAGE = 5000


def files(subject: Subject, *, digests: bool) -> None:
    """Check every file that is recorded as present, and the folders that contain them.

    digests: whether to check contents too.
    """
    folders, owner = Folders(), subject.owner
    if owner is not None:
        # The ledger no longer has files that are to be retained.
        _look_at_folders(subject, owner, Folders(), [move.relpath for move in subject.store.pending()])
    for chunk, looked in looked_at(subject, digests=digests):
        for file, seen in zip(chunk, looked.files, strict=True):
            subject.checked["files"] += file.state == PRESENT
            if digests:
                subject.checked["bytes"] += seen.size or 0
            if seen.problem in DENIED and owner is not None and os.geteuid() not in (0, owner.uid):
                raise NotPermitted(
                    f"cannot verify {subject.serverdir}",
                    f"{who(os.geteuid())} may not read {file.relpath}",
                    hint=f"run replisync as {who(owner.uid)}, the owner of the serverdir",
                )
            if problem_of(file, seen, owner) is not None:
                look = partial(fileproblem_of, subject, file.relpath, digests=digests)
                subject.findings.suspect(_named(subject, file, seen), look)
        if owner is not None and not owner.suits(looked.folders):
            _look_at_folders(subject, owner, folders, [file.relpath for file in chunk])


def _look_at_folders(subject: Subject, owner: Owner, folders: Folders, relpaths: list[str]) -> None:
    for folder in folders.of(relpaths):

        def look(folder: str = folder) -> Finding | None:
            lacks = folder_lacks(owner, subject.serverdir.files, folder)
            return None if lacks is None else Finding(PERMISSIONS, folder, None, *lacks)

        found = look()
        if found is not None:
            subject.findings.suspect(found, look)


def problem_of(file: LedgerFile, seen: Seen, owner: Owner | None) -> str | None:
    """Return the kind of error of a file, or None.

    owner: the user who must be able to read it.
    """
    if file.state != PRESENT and seen.digest is None:
        return None
    if seen.problem in (errno.EACCES, errno.EPERM):
        return PERMISSIONS
    if seen.size is None:
        return MISSING_FILE
    if file.size is not None and seen.size != file.size:
        return FILE_SIZE
    if is_misstated(seen):
        return FILE_SIZE
    if seen.digest is not None:
        digest = Digest.parse(file.digest)
        if digest is not None and seen.digest != digest.hexdigest:
            return FILE_DIGEST
    if owner is not None and owner.lacks(seen.mode, seen.uid, seen.gid) is not None:
        return PERMISSIONS
    return LEDGER if file.size is None and file.state == PRESENT else None


def is_misstated(seen: Seen) -> bool:
    """Return whether the size recorded with a content is wrong."""
    return seen.said is not None and seen.said != seen.size


def _named(subject: Subject, file: LedgerFile, seen: Seen) -> Finding:
    kind = problem_of(file, seen, subject.owner) or MISSING_FILE
    digest = Digest.parse(file.digest)
    size = f"{seen.size} bytes, of which its row says {seen.said}" if is_misstated(seen) else None
    lacks = subject.owner.lacks(seen.mode, seen.uid, seen.gid) if subject.owner and seen.mode else None
    shown = access.shown(seen.mode, seen.uid) if lacks else "one that it cannot read"
    expected, found = {
        PERMISSIONS: (lacks or "a file that its owner can read", shown),
        MISSING_FILE: (f"a file of {file.size} bytes", "none"),
        FILE_SIZE: (f"{file.size} bytes", size or f"{seen.size} bytes"),
        LEDGER: ("the size that it came with", "none"),
        FILE_DIGEST: (str(digest), f"{digest.algorithm if digest else ''}={seen.digest}"),
    }[kind]
    remedy = access.remedy(subject.owner, seen.uid) if kind == PERMISSIONS else ""
    return Finding(kind, file.relpath, file.serial, expected, found, remedy)


def fileproblem_of(subject: Subject, relpath: str, *, digests: bool) -> Finding | None:
    """Return the error of one file now; None if it has none, or is being changed."""
    row, move = audit.file_now(subject.store, relpath)
    if row is None:
        return None
    if move is not None and _is_coming(subject, row, move):
        return None  # committed content is about to take its place
    [seen] = look_at(subject, [row], digests=digests).files
    if problem_of(row, seen, subject.owner) is None or audit.file_now(subject.store, relpath) != (row, move):
        return None
    return _named(subject, row, seen)


def _is_coming(subject: Subject, row: LedgerFile, move: Pending) -> bool:
    """Return whether the file in a place is about to be removed or replaced."""
    if move.action == "replace":
        return move.staged is not None and (subject.serverdir.tmp / move.staged).exists()
    return move.action == "drop" and row.state != PRESENT


def false_drops(subject: Subject) -> None:
    """Find notes that would move away files that must stay."""

    def check() -> Iterator[Finding]:
        for move in audit.false_drops(subject.store, _PAGE):
            yield Finding(PENDING_MOVE, move.relpath, move.serial, "a file that stays", "one to be dropped")

    subject.findings.consider(check)
