"""Size, mode, owner and digest of files in place."""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

_BLOCK = 256 * 1024


class Seen(NamedTuple):
    """The state of a file in place.

    size: in bytes; None if it is missing or cannot be read.
    digest: hexdigest; None if not requested.
    problem: errno of the error that prevents reading it; 0 for none.
    mode: its mode; 0 for none.
    said: the size recorded with it, which devpi-server announces, or None.
    uid, gid: its owner; -1 for none.
    """

    size: int | None
    digest: str | None = None
    problem: int = 0
    mode: int = 0
    said: int | None = None
    uid: int = -1
    gid: int = -1


class Kind(NamedTuple):
    """Mode and owner of a folder."""

    mode: int
    uid: int
    gid: int


class Looked(NamedTuple):
    """The states of some files.

    files: in the order of the request.
    folders: the kinds of the folders that they are in.
    """

    files: list[Seen]
    folders: frozenset[Kind] = frozenset()


def look_at_all(root: bytes, files: Sequence[tuple[str, bytes]]) -> Looked:
    """Return the states of files below a folder.

    files: pairs of algorithm ("" for no digest) and relpath; those of a folder must be adjacent.
    """
    root += b"/"
    seen = [_look(root + relpath, algorithm) for algorithm, relpath in files]
    return Looked(seen, frozenset(_folders(root, (relpath for _, relpath in files))))


def _look(path: bytes, algorithm: str) -> Seen:
    try:
        if not algorithm:
            return _seen(os.lstat(path))
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL, which no file name contains
        return Seen(None)
    except OSError as err:
        return Seen(None, problem=err.errno or 0)
    try:
        found = os.fstat(fd)
        return _seen(found, *(_read(fd, algorithm) if stat.S_ISREG(found.st_mode) else ()))
    except OSError as err:
        return Seen(None, problem=err.errno or 0)
    finally:
        os.close(fd)


def _seen(found: os.stat_result, size: int | None = None, digest: str | None = None) -> Seen:
    if not stat.S_ISREG(found.st_mode):
        return Seen(None)
    size = found.st_size if size is None else size
    return Seen(size, digest, 0, found.st_mode, None, found.st_uid, found.st_gid)


def _read(fd: int, algorithm: str) -> tuple[int, str]:
    """Return the number of bytes that can be read, and their digest; releases the interpreter lock."""
    digest = hashlib.new(algorithm)
    size = 0
    while block := os.read(fd, _BLOCK):
        size += len(block)
        digest.update(block)
    return size, digest.hexdigest()


def _folders(root: bytes, relpaths: Iterable[bytes]) -> set[Kind]:
    """Return the kinds of the folders that files are in, except the root."""
    found = set()
    last = b"/"
    for relpath in relpaths:
        folder = relpath[: max(0, relpath.rfind(b"/"))]
        before, last = last, folder + b"/"
        while folder and not before.startswith(folder + b"/"):
            # Here, where the kernel has just resolved this path.
            with suppress(OSError, ValueError):
                status = os.lstat(root + folder)
                if stat.S_ISDIR(status.st_mode):
                    found.add(Kind(status.st_mode, status.st_uid, status.st_gid))
            folder = folder[: max(0, folder.rfind(b"/"))]
    return found
