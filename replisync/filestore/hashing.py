"""Processes that do for many files what would keep our own interpreter busy: digests, and listing."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
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

_ATTEMPTED = "computing of digests"


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


class Hashers:
    """A number of processes; a thread uses one of them for as long as one call takes."""

    def __init__(self, count: int) -> None:
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        with local_errors(f"{_ATTEMPTED}: starting of a process"):
            for _ in range(count):
                process = subprocess.Popen(  # noqa: S603
                    _command(_HASHER), stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
                    pipe.close()
        self._all.clear()

    def digests(self, files: Sequence[tuple[str, str]]) -> list[Seen]:
        """Return size and digest of files; pairs of algorithm and path.

        Raises LocalFailure where the process died.
        """
        process = self._idle.get()
        try:
            return _ask(process, files)
        finally:
            self._idle.put(process)


def _ask(process: subprocess.Popen[bytes], files: Sequence[tuple[str, str]]) -> list[Seen]:
    body = b"".join(os.fsencode(f"{algorithm}\0{path}\0") for algorithm, path in files)
    asked, answered = process.stdin, process.stdout
    assert asked is not None  # noqa: S101 - opened as pipes above
    assert answered is not None  # noqa: S101
    try:
        asked.write(struct.pack("!I", len(body)) + body)
        asked.flush()
        head = answered.read(4)
        answer = answered.read(struct.unpack("!I", head)[0]) if len(head) == 4 else b""
    except (OSError, ValueError) as err:
        raise LocalFailure(_ATTEMPTED, f"a process that computes them ended: {err}") from err
    found = [seen(field.decode()) for field in answer.split(b"\0")[:-1]]
    if len(found) != len(files):
        raise LocalFailure(_ATTEMPTED, "a process that computes them ended")
    return found


def seen(answer: str) -> Seen:
    """Return what an answer of filestore.hasher says."""
    if " " not in answer:
        return Seen(None, problem=int(answer))
    size, mode, uid, gid, digest = answer.split(" ")
    return Seen(int(size), digest, 0, int(mode), None, int(uid), int(gid))


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
