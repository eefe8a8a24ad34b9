"""Processes that do for many files what would keep our own interpreter busy: looking at them, and listing."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self

from replisync.durable import local_errors
from replisync.errors import LocalFailure

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


class Hashers:
    """A number of processes; a thread uses one of them for as long as one call takes.

    root: the folder that all files lie in.
    """

    def __init__(self, root: str, count: int) -> None:
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        with local_errors(f"{_ATTEMPTED}: starting of a process"):
            for _ in range(count):
                process = subprocess.Popen(  # noqa: S603
                    _command(_HASHER, root), stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                self._all.append(process)
                self._idle.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what was meant for one that had died
                        pipe.close()
        self._all.clear()

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return what is found of files; pairs of algorithm and relpath.

        Raises LocalFailure where the process died.
        """
        process = self._idle.get()
        try:
            return _ask(process, files)
        finally:
            self._idle.put(process)


def _ask(process: subprocess.Popen[bytes], files: Sequence[tuple[str, str]]) -> Looked:
    body = b"".join(os.fsencode(f"{algorithm}\0{relpath}\0") for algorithm, relpath in files)
    asked, answered = process.stdin, process.stdout
    assert asked is not None  # noqa: S101 - opened as pipes above
    assert answered is not None  # noqa: S101
    try:
        asked.write(struct.pack("!I", len(body)) + body)
        asked.flush()
        head = answered.read(4)
        answer = answered.read(struct.unpack("!I", head)[0]) if len(head) == 4 else b""
    except (OSError, ValueError) as err:
        raise LocalFailure(_ATTEMPTED, f"a process that reads them ended: {err}") from err
    fields = answer.decode().split("\0")[:-1]
    if len(fields) < len(files):
        raise LocalFailure(_ATTEMPTED, "a process that reads them ended")
    return looked(fields, len(files))


def looked(answers: list[str], count: int) -> Looked:
    """Return what the answers of filestore.hasher say for a number of files."""
    kinds = (Kind(*map(int, answer.split(" "))) for answer in answers[count:])
    return Looked([_seen(answer) for answer in answers[:count]], frozenset(kinds))


def _seen(answer: str) -> Seen:
    if " " not in answer:
        return Seen(None, problem=int(answer))
    size, mode, uid, gid, digest = answer.split(" ")
    return Seen(int(size), digest or None, 0, int(mode), None, int(uid), int(gid))


def _command(program: Path, *arguments: str) -> list[str]:
    # -I and -S: nothing of the environment, and a start in milliseconds.
    return [sys.executable, "-I", "-S", os.fspath(program), *arguments]


def listed(root: str) -> Iterator[bytes]:
    """Yield the paths of all files below a folder, as a process of its own lists them.

    Raises LocalFailure.
    """
    attempted = f"reading of {root}"
    with local_errors(attempted):
        process = subprocess.Popen(_command(_LISTER, root), stdout=subprocess.PIPE)  # noqa: S603
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
