"""Writes that are on disk when they return, and what the system's errors mean to an operator."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replisync.errors import LocalFailure, NotPermitted
from replisync.system.denied import DENIED, denial
from replisync.system.owners import heir_of, new_file, new_folder

_HINTS = {
    errno.ENOSPC: "the disk is full: make room, then run the command again",
    errno.EDQUOT: "the quota is used up: make room, then run the command again",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n), or use fewer threads",
    errno.ENFILE: "the system's file table is full: raise fs.file-max",
    errno.EIO: "the disk reports errors: look at the kernel's log",
}


# What can happen to any call at any time, and is nobody's mistake.
_ANYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO)


def trouble(err: BaseException, attempted: str) -> LocalFailure | None:
    """Return what an error is that the system may answer any call with; None where it is another."""
    if not isinstance(err, OSError) or err.errno not in _ANYWHERE:
        return None
    if err.errno == errno.EROFS:
        why, hint = denial(err)
        return NotPermitted(attempted, why, hint=hint)
    where = f" ({os.fsdecode(err.filename)})" if isinstance(err.filename, str | bytes) else ""
    return LocalFailure(attempted, f"{err.strerror}{where}", hint=_HINTS[err.errno])


@contextmanager
def local_errors(attempted: str) -> Iterator[None]:
    """Translate the system's errors into LocalFailure with a hint."""
    try:
        yield
    except OSError as err:
        if err.errno in DENIED:
            why, hint = denial(err)
            raise NotPermitted(attempted, why, hint=hint) from err
        why = err.strerror or str(err)
        raise LocalFailure(attempted, why, hint=_HINTS.get(err.errno or 0, "")) from err


def fsync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path | str, mode: int | None = None, *, ours: bool = False) -> None:
    """Make a folder and its parents, durably: each new name is synced in its parent.

    mode: of the folder, whatever the umask; None for the usual one, which its parents get.
    ours: whether all of them stay ours wherever they are.
    """
    parent = os.path.dirname(folder)
    heir = None if ours else heir_of(folder)
    try:
        new_folder(folder, heir, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(parent, ours=ours)
        with suppress(FileExistsError):
            new_folder(folder, heir, mode)
    fsync_folder(parent)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """Hold a folder for what nobody needs later: empty at the beginning, gone at the end."""
    with local_errors(f"cannot clear {folder}"):
        if folder.exists():
            shutil.rmtree(folder)
        new_folder(folder, heir_of(folder), 0o700)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, data: bytes, mode: int = 0o600, *, ours: bool = False) -> None:
    """Replace a file's content in one step: a reader, or a crash, sees the old content or the new.

    ours: whether it stays ours wherever it is.
    Raises OSError; then the old content is untouched and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name.lstrip('.')}.replisync-tmp")
    # Never into what is there: it may be somebody else's, who would read what we write.
    temporary.unlink(missing_ok=True)
    try:
        heir = None if ours else heir_of(path)
        with os.fdopen(new_file(temporary, heir, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
