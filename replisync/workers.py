"""Processes that do for us what would keep our own interpreter busy.

A program is a file of ours. A message to it, and its answer, is a length in 4 bytes and so many bytes.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from replisync.durable import local_errors
from replisync.errors import LocalFailure

_LENGTH = struct.Struct("!I")

_VARIABLES = ("REPLISYNC_", "PG")


def command(program: Path, *arguments: str) -> list[str]:
    """Return the command that runs a program of ours."""
    # -I and -S: nothing of the environment, and a start in milliseconds.
    return [sys.executable, "-I", "-S", os.fspath(program), *arguments]


def environment() -> dict[str, str]:
    """Return the variables that a process of ours gets: all but ours, and PostgreSQL's.

    Secrets may be among those.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}


class Workers:
    """A number of processes; a thread uses one of them for as long as one question takes.

    attempted: what they are there for, as errors say it.
    """

    def __init__(self, attempted: str, program: Path, arguments: Sequence[str], count: int) -> None:
        self._attempted = attempted
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        with local_errors(f"{attempted}: starting of a process"):
            for _ in range(count):
                process = subprocess.Popen(  # noqa: S603
                    command(program, *arguments),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment(),
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

    def ask(self, question: bytes) -> bytes:
        """Return the answer of the next process that is idle.

        Raises LocalFailure where it died.
        """
        process = self._idle.get()
        try:
            return self._ask(process, question)
        finally:
            self._idle.put(process)

    def _ask(self, process: subprocess.Popen[bytes], question: bytes) -> bytes:
        asked, answered = process.stdin, process.stdout
        assert asked is not None  # noqa: S101 - opened as pipes above
        assert answered is not None  # noqa: S101
        try:
            asked.write(_LENGTH.pack(len(question)) + question)
            asked.flush()
            head = answered.read(_LENGTH.size)
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
            answer = answered.read(length) if length >= 0 else b""
        except (OSError, ValueError) as err:
            raise LocalFailure(self._attempted, f"a process that does it ended: {err}") from err
        if len(answer) != length:
            raise LocalFailure(self._attempted, "a process that does it ended")
        return answer
