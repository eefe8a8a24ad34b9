"""Processes that do for many files what would keep our own interpreter busy: looking at them, and listing."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from replisync.durable import local_errors
from replisync.errors import LocalFailure
from replisync.workers import Workers, command, environment

_HASHER = Path(__file__).with_name("hasher.py")
_LISTER = Path(__file__).with_name("lister.py")

# What is read of a list at a time.
_PIECE_BYTES = 256 * 1024

_ATTEMPTED = "reading of files"


class Seen(NamedTuple):
    """What a file in place is.

    size: in bytes; None where there is none, or none that can be read.
    digest: hexdigest; None where it was not asked for.
    problem: number of the system's error with which it cannot be read; 0 where there is none.
    mode: its mode; 0 where it has none.
    said: the size that is noted beside it, which devpi-server announces; None where none is.
    uid, gid: whose it is; -1 where it is nobody's.
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
    """What a look at some files found.

    files: in the order in which they were asked for.
    folders: what kinds of folders they are in.
    """

    files: list[Seen]
    folders: frozenset[Kind] = frozenset()


def hashers(root: str, count: int) -> Workers:
    """Start processes that look at files.

    root: the folder that all files lie in.
    """
    return Workers(_ATTEMPTED, _HASHER, (root,), count)


def ask(workers: Workers, files: Sequence[tuple[str, str]]) -> Looked:
    """Return what such processes find of files; pairs of algorithm and relpath.

    Raises LocalFailure where one died.
    """
    question = b"".join(os.fsencode(f"{algorithm}\0{relpath}\0") for algorithm, relpath in files)
    return looked(workers.ask(question).decode().split("\0")[:-1], len(files))


def looked(answers: list[str], count: int) -> Looked:
    """Return what the answers of filestore.hasher say for a number of files."""
    kinds = (Kind(*map(int, answer.split(" "))) for answer in answers[count:])
    return Looked([_seen(answer) for answer in answers[:count]], frozenset(kinds))


def _seen(answer: str) -> Seen:
    if " " not in answer:
        return Seen(None, problem=int(answer))
    size, mode, uid, gid, digest = answer.split(" ")
    return Seen(int(size), digest or None, 0, int(mode), None, int(uid), int(gid))


def listed(root: str) -> Iterator[bytes]:
    """Yield the paths of all files below a folder, as a process of its own lists them.

    Raises LocalFailure.
    """
    attempted = f"reading of {root}"
    with local_errors(attempted):
        process = subprocess.Popen(  # noqa: S603
            command(_LISTER, root), stdout=subprocess.PIPE, env=environment()
        )
    pipe = process.stdout
    assert pipe is not None  # noqa: S101 - opened above
    try:
        rest = b""
        while piece := os.read(pipe.fileno(), _PIECE_BYTES):
            *whole, rest = (rest + piece).split(b"\0")
            yield from whole
        code = process.wait()
        if code > 0:
            raise LocalFailure(attempted, os.strerror(code))
        if code or rest:
            raise LocalFailure(attempted, "the process that lists it was ended")
    finally:
        process.kill()
        process.wait()
        pipe.close()
