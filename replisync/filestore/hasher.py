"""A process that looks at files and computes their digests: a program of its own, started with pipes.

Files are mostly small, and between two of them a thread needs the interpreter for as long as the digest
takes; processes share no interpreter. This one starts in a few milliseconds, since it imports next to
nothing. It is given the folder that all files lie in. A message, in both directions, is its length in 4 bytes
and then fields, each ended by a NUL.

    asked: algorithm, relpath, algorithm, relpath, ..; the algorithm is "" where no digest is wanted
    answered: for each relpath "size mode uid gid hexdigest", or "errno" where it cannot be read;
        then "mode uid gid" of the folders that the files are in, each that differs once
"""

import hashlib
import os
import signal
import stat
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

_BLOCK = 256 * 1024


def look(path: bytes, algorithm: str) -> str:
    """Return what is answered for a file."""
    if not algorithm:
        return _look_at_size(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        return str(err.errno or 0)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "0"
        digest = hashlib.new(algorithm)
        size = 0
        while block := os.read(fd, _BLOCK):
            size += len(block)
            digest.update(block)
        return f"{size} {found.st_mode} {found.st_uid} {found.st_gid} {digest.hexdigest()}"
    except OSError as err:
        return str(err.errno or 0)
    finally:
        os.close(fd)


def _look_at_size(path: bytes) -> str:
    try:
        found = os.lstat(path)
    except OSError as err:
        return str(err.errno or 0)
    if not stat.S_ISREG(found.st_mode):
        return "0"
    return f"{found.st_size} {found.st_mode} {found.st_uid} {found.st_gid} "


def folders(root: bytes, relpaths: Iterable[bytes]) -> set[tuple[int, int, int]]:
    """Return mode, user and group of the folders that files are in, each that differs once.

    root: with a slash at its end; it does not count itself.
    relpaths: those of a folder follow each other.
    """
    found = set()
    last = b"/"
    for relpath in relpaths:
        folder = relpath[: max(0, relpath.rfind(b"/"))]
        before, last = last, folder + b"/"
        while folder and not before.startswith(folder + b"/"):
            # Here, where the kernel has just walked this path.
            with suppress(OSError):
                status = os.lstat(root + folder)
                if stat.S_ISDIR(status.st_mode):
                    found.add((status.st_mode, status.st_uid, status.st_gid))
            folder = folder[: max(0, folder.rfind(b"/"))]
    return found


def look_at_all(root: bytes, files: list[tuple[bytes, bytes]]) -> list[str]:
    """Return what is answered for files; pairs of algorithm and relpath."""
    root += b"/"
    answers = [look(root + relpath, algorithm.decode()) for algorithm, relpath in files]
    kinds = folders(root, (relpath for _, relpath in files))
    return answers + [f"{mode} {uid} {gid}" for mode, uid, gid in kinds]


def serve(root: bytes, asked: BinaryIO, answered: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    while len(head := asked.read(4)) == 4:
        fields = asked.read(struct.unpack("!I", head)[0]).split(b"\0")
        files = list(zip(fields[0:-1:2], fields[1:-1:2], strict=True))
        body = "".join(f"{answer}\0" for answer in look_at_all(root, files)).encode()
        answered.write(struct.pack("!I", len(body)) + body)
        answered.flush()


if __name__ == "__main__":
    # Who started it ends it, by closing its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(os.fsencode(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
