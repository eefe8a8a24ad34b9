"""Where the demo happens: a folder of its own, processes of its own, and how the story is told."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.support.devpi import Server
from tests.support.pip import clean_environment
from tests.support.waiting import wait_until

COMMAND_SECONDS = 120
START_SECONDS = 90
STOP_SECONDS = 15
LOG_TAIL_CHARS = 2_000

PIP_SETTINGS = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_QUIET": "1",
}


class CommandFailed(Exception):
    """A command ended with another exit code than it should."""


class Process:
    """A command that runs beside the story, with its log."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Return when the condition holds; fail with the log when the process ends before."""

        def holds() -> bool:
            code = self._popen.poll()
            if code is not None:
                raise CommandFailed(f"{self.name} ended with {code}:\n{self.tail()}")
            return bool(condition())

        wait_until(holds, seconds, what)

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARS:]

    def kill(self) -> None:
        """End it as a power failure would."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> int:
        """End it politely, by force after a deadline; return its exit code."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._popen.returncode


class Stage:
    """A temporary folder in which commands run as a user types them; all is gone at the end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._processes: list[Process] = []
        self._steps = 0

    def __enter__(self) -> Self:
        """Make the folder and go there."""
        with contextlib.ExitStack() as stack:
            environment = stack.enter_context(clean_environment())
            commands = Path(sys.executable).parent
            path = f"{commands}{os.pathsep}{environment['PATH']}"
            self.environment = {**environment, **PIP_SETTINGS, "PATH": path}
            self.folder = Path(tempfile.mkdtemp(prefix="replisync-demo-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(contextlib.chdir(self.folder))
            stack.callback(self._end_processes)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the processes and remove the folder, whatever signals come meanwhile."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def _end_processes(self) -> None:
        for process in reversed(self._processes):
            process.stop()

    # Telling.

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)

    def say(self, text: str) -> None:
        """Tell what came out."""
        for line in text.rstrip().splitlines():
            print(f"     {line}", flush=True)

    # Doing.

    def run(self, command: str, *, expect: int = 0, quiet: bool = False) -> str:
        """Show a command, run it, show what it printed; return that.

        expect: the exit code that it must have.
        quiet: do not show what it printed.
        """
        print(f"   $ {command}", flush=True)
        done = subprocess.run(
            shlex.split(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != expect:
            raise CommandFailed(f"`{command}` ended with {done.returncode}, not {expect}:\n{done.stdout}")
        # The log of a run is JSON where stderr is no terminal; the story is told by the other lines.
        told = "\n".join(line for line in done.stdout.splitlines() if not line.startswith('{"'))
        if not quiet:
            self.say(told)
        return told

    def start(self, command: str, log: str) -> Process:
        """Show a command and start it beside the story."""
        print(f"   $ {command} &", flush=True)
        path = Path(log).absolute()
        with path.open("ab") as output:
            popen = subprocess.Popen(
                shlex.split(command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process = Process(shlex.split(command)[0], popen, path)
        self._processes.append(process)
        return process

    def start_server(self, command: str, server: Server) -> Process:
        """Start a devpi-server and return when it answers."""
        process = self.start(command, f"{server.serverdir}.log")
        process.wait_for(lambda: _answers(server), f"devpi-server at {server.url} answers")
        return process


def _answers(server: Server) -> bool:
    try:
        return server.headers() is not None
    except OSError:
        return False
