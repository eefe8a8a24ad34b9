"""Every file: whether it is there, with its size, with its digest, and whether there is any other."""

import errno
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from replisync import clock
from replisync.changelog import parse_stored
from replisync.errors import CorruptEntry
from replisync.filestore.hashing import Seen
from replisync.keys import FILE_KEYNAMES, Digest
from replisync.store import audit
from replisync.store.audit import LedgerFile
from replisync.store.records import PRESENT, Pending
from replisync.verify import access
from replisync.verify.access import Folders, Owner
from replisync.verify.findings import (
    FILE_DIGEST,
    FILE_SIZE,
    LEDGER,
    MISSING_FILE,
    PENDING_MOVE,
    PERMISSIONS,
    SUPERFLUOUS_FILE,
    TEMPORARY,
    Finding,
)
from replisync.verify.subject import Subject

_A = TypeVar("_A")
_B = TypeVar("_B")

# Rows of the ledger that are read at a time.
_PAGE = 5000

# Files that one worker looks at at a time: in number, and for their digests also in bytes.
_SIZES = 1000
_DIGESTS = 64
_DIGEST_BYTES = 16 * 1024 * 1024

# From so many files on, processes of their own are worth their start.
_MANY = 256

# How a devpi-server names what it has not stored yet.
_TEMPORARY = re.compile(r"-tmp$")

# While a devpi-server may be storing files, what is unfinished counts as left behind after so long.
_UNFINISHED_SECONDS = 3600.0


def files(subject: Subject, *, digests: bool) -> None:
    """Look at every file that is said to be here.

    digests: whether its content is read too.
    """
    folders, owner = Folders(), subject.owner
    for file, seen in looked_at(subject, digests=digests):
        subject.checked["files"] += file.state == PRESENT
        if digests:
            subject.checked["bytes"] += seen.size or 0
        if problem_of(file, seen, owner) is not None:
            subject.findings.suspect(
                _named(subject, file, seen), _looks_again(subject, file, digests=digests)
            )
        if owner is not None:
            for folder in folders.new(file.relpath):
                if access.folder_lacks(owner, subject.serverdir.files, folder) is not None:
                    _suspect_folder(subject, owner, folder)


def _suspect_folder(subject: Subject, owner: Owner, folder: str) -> None:
    def look() -> Finding | None:
        lacks = access.folder_lacks(owner, subject.serverdir.files, folder)
        return None if lacks is None else Finding(PERMISSIONS, folder, None, *lacks)

    found = look()
    if found is not None:
        subject.findings.suspect(found, look)


def barred_folders(subject: Subject) -> Iterator[str]:
    """Yield the folders that their owner cannot use, or everybody may write to."""
    owner = subject.owner
    if owner is None:
        return
    folders = Folders()
    for file in _known(subject, absent_too=True):
        for folder in folders.new(file.relpath):
            if access.folder_lacks(owner, subject.serverdir.files, folder) is not None:
                yield folder


def prepare(subject: Subject) -> None:
    """Get ready to look at the contents of all files."""
    if audit.count_of_present(subject.store) > _MANY:
        subject.survey.start()


def looked_at(subject: Subject, *, digests: bool) -> Iterator[tuple[LedgerFile, Seen]]:
    """Yield every file that is said to be here, with what is found of it.

    With digests those too that are said not to be here: what is in their places must not be another content.
    """
    subject.context.progress.stage("files", audit.count_of_present(subject.store), "files")
    chunks = _cut(_known(subject, absent_too=digests), digests=digests)
    look = _digests_of if digests else _sizes_of
    for chunk, seen in _ahead(subject, lambda some: look(subject, some), chunks):
        yield from zip(chunk, seen, strict=True)
        subject.context.progress.advance(len(chunk), sum(one.size or 0 for one in seen) if digests else 0)


def _known(subject: Subject, *, absent_too: bool) -> Iterator[LedgerFile]:
    after = ""
    while page := audit.ledger(subject.store, after, _PAGE):
        after = page[-1].relpath
        yield from (file for file in page if absent_too or file.state == PRESENT)


def _cut(files: Iterable[LedgerFile], *, digests: bool) -> Iterator[list[LedgerFile]]:
    chunk: list[LedgerFile] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += file.size or 0
        if len(chunk) >= (_DIGESTS if digests else _SIZES) or (digests and size >= _DIGEST_BYTES):
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _ahead(subject: Subject, work: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[tuple[_A, _B]]:
    """Yield each item with what the work makes of it, in order, while workers do the next ones."""
    with ThreadPoolExecutor(subject.cores, thread_name_prefix="verify") as pool:
        going: deque[tuple[_A, Future[_B]]] = deque()
        try:
            for item in items:
                going.append((item, pool.submit(work, item)))
                if len(going) > 3 * subject.cores:
                    first, result = going.popleft()
                    yield first, result.result()
                    subject.context.stop.check()
            while going:
                first, result = going.popleft()
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _sizes_of(subject: Subject, files: list[LedgerFile]) -> list[Seen]:
    return subject.survey.sizes([file.relpath for file in files])


def _digests_of(subject: Subject, files: list[LedgerFile]) -> list[Seen]:
    return subject.survey.digests([(_algorithm(file), file.relpath) for file in files])


def _algorithm(file: LedgerFile) -> str:
    digest = Digest.parse(file.digest)
    return digest.algorithm if digest is not None else "sha256"


def problem_of(file: LedgerFile, seen: Seen, owner: Owner | None) -> str | None:
    """Return the kind of what is wrong with a file; None where nothing is.

    owner: who must be able to read it.
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
    digest = Digest.parse(file.digest)
    if digest is not None and seen.digest is not None and seen.digest != digest.hexdigest:
        return FILE_DIGEST
    if owner is not None and owner.lacks(seen.mode, seen.uid, seen.gid) is not None:
        return PERMISSIONS
    return LEDGER if file.size is None and file.state == PRESENT else None


def is_misstated(seen: Seen) -> bool:
    """Tell whether another size is noted beside a content than it has."""
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


def _looks_again(subject: Subject, file: LedgerFile, *, digests: bool) -> Callable[[], Finding | None]:
    def look() -> Finding | None:
        return fileproblem_of(subject, file.relpath, digests=digests)

    return look


def fileproblem_of(subject: Subject, relpath: str, *, digests: bool) -> Finding | None:
    """Return what is wrong with one file now; None where nothing is, or somebody is changing it."""
    row, move = audit.file_now(subject.store, relpath)
    if row is None:
        return None
    if move is not None and _is_coming(subject, row, move):
        return None  # what is committed is about to take its place
    look = _digests_of if digests else _sizes_of
    [seen] = look(subject, [row])
    if problem_of(row, seen, subject.owner) is None or audit.file_now(subject.store, relpath) != (row, move):
        return None
    return _named(subject, row, seen)


def _is_coming(subject: Subject, row: LedgerFile, move: Pending) -> bool:
    """Tell whether what is in a file's place is about to go, or to be replaced."""
    if move.action == "replace":
        return move.staged is not None and (subject.serverdir.tmp / move.staged).exists()
    return move.action == "drop" and row.state != PRESENT


def false_drops(subject: Subject) -> None:
    """Look for notes that would have files moved away which must be here."""
    for move in audit.false_drops(subject.store, _PAGE):
        finding = Finding(PENDING_MOVE, move.relpath, move.serial, "a file that stays", "one to be dropped")

        def look(finding: Finding = finding) -> Finding | None:
            now = {one.relpath for one in audit.false_drops(subject.store, _PAGE)}
            return finding if finding.subject in now else None

        subject.findings.suspect(finding, look)


# What nobody asked for.


def strangers(subject: Subject, names: Iterable[bytes]) -> None:
    """Look for files that no live key names.

    names: of all files in place; see Names.
    """
    for relpath in _unknown(subject, names):
        subject.findings.suspect(_stranger(subject, relpath), _stranger_again(subject, relpath))


def names_nobody_has(subject: Subject) -> Iterator[str]:
    """Yield the relpaths of files that nobody needs; nobody may be writing meanwhile."""
    for relpath in _unknown(subject, subject.survey.names()):
        needed = _linked_folder(subject, relpath)
        if not needed and is_stranger(subject, relpath, subject.survey.changed_at(relpath)):
            yield relpath


def _unknown(subject: Subject, names: Iterable[bytes]) -> Iterator[str]:
    """Yield the relpaths of files that the ledger does not have."""
    subject.context.progress.stage("files in place", None, "files")
    known = iter(_ledger(subject))
    row = next(known, None)
    count = 0
    for count, name in enumerate(names, 1):
        if not count % _SIZES:
            subject.context.stop.check()
            subject.context.progress.advance(_SIZES)
        while row is not None and row < name:
            row = next(known, None)
        if row != name:
            yield name.decode(errors="surrogateescape")
    subject.checked["files_in_place"] = count


def _ledger(subject: Subject) -> Iterator[bytes]:
    after = ""
    while page := audit.ledger(subject.store, after, _PAGE):
        after = page[-1].relpath
        yield from (file.relpath.encode() for file in page)


def _linked_folder(subject: Subject, relpath: str) -> bool:
    """Tell whether a path is a link to a folder in which files lie that must be here."""
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return False
    path = subject.serverdir.files / relpath
    linked = not subject.storage_is_database() and path.is_symlink() and path.is_dir()
    return linked and audit.has_files_below(subject.store, relpath)


def _stranger(subject: Subject, relpath: str) -> Finding:
    if _linked_folder(subject, relpath):
        remedy = "move the folder that it leads to into its place, or mount it there"
        return Finding(SUPERFLUOUS_FILE, relpath, None, "a folder", "a link to one", remedy)
    kind = TEMPORARY if _TEMPORARY.search(relpath) else SUPERFLUOUS_FILE
    shown = relpath.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return Finding(kind, shown, None, "no such file", "a file that no key names")


def _stranger_again(subject: Subject, relpath: str) -> Callable[[], Finding | None]:
    before = subject.survey.changed_at(relpath)

    def look() -> Finding | None:
        return _stranger(subject, relpath) if is_stranger(subject, relpath, before) else None

    return look


def is_stranger(subject: Subject, relpath: str, before: float | None) -> bool:
    """Tell whether a file is here that nobody needs, and nobody is bringing.

    before: when it was changed, by an earlier look.
    """
    if not _is_here(subject, relpath):
        return False
    try:
        relpath.encode()
    except UnicodeEncodeError:
        return True  # no key can have this name
    # Each commit changes the ledger and the notes of what comes and goes at once, before and after which a
    # file is in its place. Twice: it may have gone, and come again, between two looks.
    if audit.file_now(subject.store, relpath) != (None, None) or not _is_here(subject, relpath):
        return False
    if audit.file_now(subject.store, relpath) != (None, None):
        return False
    if _TEMPORARY.search(relpath):
        changed_at = subject.survey.changed_at(relpath)
        age = clock.seconds_since_epoch(changed_at) if changed_at is not None else _UNFINISHED_SECONDS
        return changed_at == before and (not subject.in_use() or age >= _UNFINISHED_SECONDS)
    return not _is_link(subject, relpath)  # which a devpi-server fetched, and the primary will say so


def _is_here(subject: Subject, relpath: str) -> bool:
    """Tell whether anything has this name, be it a file or not."""
    [seen] = subject.survey.sizes([relpath])
    if seen.problem in (errno.ENOENT, errno.ENOTDIR):
        return False
    return seen.size is not None or seen.problem != 0 or subject.survey.changed_at(relpath) is not None


def _is_link(subject: Subject, relpath: str) -> bool:
    """Tell whether a key that is not deleted has this path: the link of a mirror."""
    now = audit.key_now(subject.store, relpath)
    if now.row is None or now.row.serial is None or now.row.keyname not in FILE_KEYNAMES:
        return False
    try:
        changes = parse_stored(now.row.serial, now.data.get(now.row.serial, b""), kinds=FILE_KEYNAMES).changes
    except CorruptEntry:
        return True  # nobody can tell
    change = changes.get(relpath)
    return change is not None and bool(change.value)
