"""A pseudo-terminal with a program on it, as a window or an SSH session is one, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.runs import END_SECONDS
from tests.support.waiting import wait_until

# Variables by which programs choose how to write; a test sets those that it is about.
_CHOOSING = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

_PIECE = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<code>[A-Za-z])|(?P<end>[\r\n])|(?P<text>[^\x1b\r\n]+)")


class Terminal:
    """A program that has a terminal; also a context manager that ends it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 120,
        rows: int = 40,
        environment: Mapping[str, str | None] | None = None,
        stdout: Path | None = None,
    ) -> None:
        """Start the program in a session of its own, whose terminal this is.

        columns, rows: the size of the window.
        environment: variables beside those of the tests; None for one that is not to be there.
        stdout: a file for it, where it is not the terminal.
        """
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        variables = {**dict.fromkeys(_CHOOSING), "TERM": "xterm-256color", **(environment or {})}
        kept = {name: value for name, value in os.environ.items() if name not in variables}
        given = {name: value for name, value in variables.items() if value is not None}
        output = os.open(stdout, os.O_WRONLY | os.O_CREAT, 0o666) if stdout else theirs
        self._process = subprocess.Popen(
            # By stdin the session gets its terminal; what `nohup` ignores for these tests, a window does not.
            ["env", "--default-signal=HUP", "setsid", "--ctty", *command],
            stdin=theirs,
            stdout=output,
            stderr=theirs,
            env={**kept, **given},
        )
        for number in {theirs, output}:
            os.close(number)
        self._said = b""
        self._open = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Terminal":
        """Return the running program."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Kill the program if it still runs, and close the terminal."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.hang_up()

    def _read(self) -> None:
        while self._open:
            if select.select([self._ours], [], [], 0.05)[0]:
                try:
                    self._said += os.read(self._ours, 65536)
                except OSError:  # nobody has it open any more
                    return

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, the negative number of a signal, or None while it runs."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """All that was written to the terminal so far."""
        return self._said.decode(errors="replace")

    @property
    def screen(self) -> list[str]:
        """The lines that the terminal shows, those that scrolled out too, without those that are empty."""
        return screen(self.text)

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size, of which the program is told by SIGWINCH."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the terminal, as its window or its connection does; processes get SIGHUP."""
        if self._open:
            self._open = False
            # The kernel keeps a terminal as long as somebody reads from it.
            self._reader.join()
            os.close(self._ours)

    def wait_for(self, condition: Callable[[], object], what: str, deadline_seconds: float = 30) -> None:
        """Return when the condition holds; fail at once when the program ends before."""

        def holds() -> object:
            met = condition()
            assert met or self.code is None, f"it ended with {self.code} before {what}:\n{self.text}"
            return met

        wait_until(holds, deadline_seconds, what)

    def wait_for_text(self, text: str) -> None:
        """Return when the terminal was sent a text."""
        self.wait_for(lambda: text in self.text, f"it says {text!r}")

    def end(self, code: int, number: signal.Signals | None = None) -> list[str]:
        """Wait for its end, after a signal if there is one; check the code, return the screen's lines."""
        if number is not None:
            self._process.send_signal(number)
        found = self._process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        assert found == code, f"exit code {found} instead of {code}:\n{self.text}"
        return self.screen


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows of a text, without those that are empty.

    It knows what a display needs that is redrawn in place. A long line is one line here.
    Fails at what it does not know.
    """
    lines, row, column, at = [""], 0, 0, 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece, f"what no terminal is sent here: {text[at : at + 20]!r}"
        at = piece.end()
        code, number = piece["code"], piece["number"]
        if piece["text"]:
            line, column = lines[row].ljust(column), column + len(piece["text"])
            lines[row] = line[: column - len(piece["text"])] + piece["text"] + line[column:]
        elif piece["end"] == "\r":
            column = 0
        elif piece["end"] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code == "A":
            row = max(0, row - int(number or 1))
        elif (code, number) == ("K", "2"):
            lines[row] = ""
        else:
            assert code == "m" or number == "?25", f"what no terminal is sent here: {piece[0]!r}"
    return [line.rstrip() for line in lines if line.strip()]
