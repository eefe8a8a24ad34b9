"""Runs of replisync: in this process where nothing is killed, else as a process of their own."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replisync.cli.app import run
from tests.support import forked
from tests.support.releases import FAST_ARGON2
from tests.support.waiting import wait_until

WITH_SECRET = frozenset({"clone", "catchup", "follow", "rewind", "verify", "derive-key"})
END_SECONDS = 120

REPLISYNC = (sys.executable, "-m", "replisync")
PROGRAM = "replisync.cli:main"


@dataclass(frozen=True)
class Outcome:
    """What a run left for its caller.

    code: the exit code.
    message: the line on stderr that says what failed; "" where nothing did.
    logs: the log lines.
    """

    code: int
    message: str
    stdout: str
    logs: tuple[dict[str, Any], ...]


def arguments(command: str, *args: object) -> list[str]:
    """Return a command line, with the cheap key derivation of the test servers."""
    cost = FAST_ARGON2 if command in WITH_SECRET else ()
    return [command, *map(str, args), *cost]


def run_here(command: str, *args: object, code: int = 0, before: Sequence[str] = ()) -> Outcome:
    """Run a command in this process and check its exit code and what it says.

    before: options that come before the command.
    """
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        found = run([*before, *arguments(command, *args)])
    return outcome(found, stdout.getvalue(), stderr.getvalue(), code)


def run_apart(command: str, *args: object, code: int = 0, program: Sequence[object] = REPLISYNC) -> Outcome:
    """Run a command as a process of its own and check its exit code and what it says.

    program: what starts replisync, where that is not simply the interpreter.
    """
    done = finished([*map(str, program), *arguments(command, *args)])
    return outcome(done.returncode, done.stdout, done.stderr, code)


def finished(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program, mostly replisync, to its end."""
    if forked.wanted() and tuple(command[: len(REPLISYNC)]) == REPLISYNC:
        return forked.run(PROGRAM, command[len(REPLISYNC) - 1 :], END_SECONDS)
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        timeout=END_SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def outcome(code: int, stdout: str, stderr: str, expected: int) -> Outcome:
    """Check that a run ended as expected, and with one line on stderr beside the log exactly if it failed."""
    logs: list[str] = []
    others: list[str] = []
    for line in stderr.splitlines():
        (logs if line.startswith("{") else others).append(line)
    assert code == expected, f"exit code {code} instead of {expected}:\n{stdout}{stderr}"
    wanted = 0 if code == 0 else 1
    assert len(others) == wanted, f"{len(others)} lines on stderr instead of {wanted}:\n{stderr}"
    assert all(line.startswith("replisync: ") for line in others), stderr
    return Outcome(code, "".join(others), stdout, tuple(json.loads(line) for line in logs))


class Background:
    """A command as a process of its own that the test goes on beside; also a context manager that ends it."""

    def __init__(
        self,
        log: Path,
        command: str,
        *args: object,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        from_scratch: bool = False,
    ) -> None:
        """Start the command; what it says is appended to `log`.

        environment: variables beside those of the tests.
        from_scratch: whether the start of the interpreter matters, too; it does for its variables.
        """
        self.log = log
        self._seen = log.stat().st_size if log.exists() else 0
        words = [*before, *arguments(command, *args)]
        self.process: subprocess.Popen[bytes] | forked.Forked
        if forked.wanted() and environment is None and not from_scratch:
            log.touch()
            self.process = forked.Forked(PROGRAM, ["replisync", *words], log)
            return
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*REPLISYNC, *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> "Background":
        """Return the running command."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Kill the command if it still runs."""
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def text(self) -> str:
        """What this run has said so far."""
        with self.log.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode()

    def wait_for(self, condition: Callable[[], object], what: str, deadline_seconds: float = 60) -> None:
        """Return when the condition holds; fail at once when the command ends before."""

        def holds() -> object:
            met = condition()
            ended = self.process.poll()
            assert met or ended is None, f"it ended with {ended} before {what}:\n{self.text}"
            return met

        wait_until(holds, deadline_seconds, what)

    def wait_for_log(self, event: str) -> "Background":
        """Return when the command has logged an event."""
        self.wait_for(lambda: f'"event": "{event}"' in self.text, f"it logs {event!r}")
        return self

    def kill(self) -> None:
        """End it as a power failure would."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> Outcome:
        """Ask it to end, and check that it does so without complaint."""
        self.process.send_signal(signal.SIGTERM)
        return self.end(0)

    def end(self, code: int) -> Outcome:
        """Wait for its end and check it as `outcome` does."""
        found = self.process.wait(END_SECONDS)
        lines = self.text.splitlines()
        said = [line for line in lines if line.startswith(("{", "replisync: ", "Traceback"))]
        return outcome(found, "", "\n".join(said), code)
