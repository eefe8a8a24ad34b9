"""Progress of long work: a display on a terminal, log lines elsewhere."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from replisync.changelog import Log, Progress
from replisync.cli.logs import printable
from replisync.cli.output import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from replisync.cli.display import Display

_LINE_SECONDS = 5.0
_DRAW_SECONDS = 0.1

# A file that takes longer to arrive is shown by its name.
_SLOW_SECONDS = 3.0

# A stage of a follower with as many changes has a bar.
_LONG_STAGE = 100


class Lines:
    """A log line at the begin of a stage, and every few seconds."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._incoming: dict[str, _Incoming] = {}
        self._begin("", None, "")

    def stage(self, name: str, total: int | None, unit: str, /, **facts: object) -> None:
        """Begin a stage of work; its rate and remaining time are measured from here."""
        self._begin(name, total, unit)
        if facts:
            self._log.info(name, **facts)

    def advance(self, done: int, size: int = 0) -> None:
        """Count, and log a line if one is due."""
        self._count(done, size)
        self._report()

    def receiving(self, name: str, done: int, length: int | None) -> None:
        """Count the bytes of an incomplete file."""
        known = self._incoming.get(name)
        if known is None:
            known = self._incoming.setdefault(name, _Incoming(self._clock()))
        known.done, known.length = done, length
        self._tell()

    def received(self, name: str) -> None:
        """Forget an incomplete file: it is counted as a whole, or not at all."""
        self._incoming.pop(name, None)

    def following(self, url: str, serial: int) -> None:
        """Do nothing: the log names changes."""

    def _tell(self) -> None:
        """Show that more of a file arrived."""
        self._report()

    def _begin(self, name: str, total: int | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = self._size = 0
        self._started = self._shown = self._clock()

    def _count(self, done: int, size: int) -> None:
        self._done += done
        self._size += size
        if self._total is not None:
            # There may be more work than was known at first; never show more than 100 %.
            self._total = max(self._total, self._done)

    def _bytes(self) -> int:
        return self._size + sum(one.done for one in list(self._incoming.values()))

    def _rates(self) -> tuple[float, float]:
        """Return the units, and the bytes, of a second."""
        passed = self._clock() - self._started
        return (self._done / passed, self._bytes() / passed) if passed > 0 else (0.0, 0.0)

    def _left(self) -> float | None:
        """Return the remaining seconds: of arriving files by their bytes, of the others by their number."""
        units, speed = self._rates()
        incoming = list(self._incoming.values())
        waiting = max(0, (self._total or 0) - self._done - len(incoming))
        rest = sum(max(0, one.length - one.done) for one in incoming if one.length is not None)
        if self._total is None or (waiting and not units) or (rest and not speed):
            return None
        return (waiting / units if waiting else 0.0) + (rest / speed if rest else 0.0)

    def _report(self) -> None:
        now = self._clock()
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        left = self._left()
        self._log.info(
            "progress",
            stage=self._name,
            done=self._done,
            total=self._total,
            unit=self._unit,
            bytes=self._bytes(),
            per_second=round(self._rates()[0], 1),
            seconds_left=None if left is None else round(left),
        )


@dataclass(slots=True)
class _Incoming:
    """A file that arrives: since when, its bytes so far, and all of them, if known."""

    since: float
    done: int = 0
    length: int | None = None


class Bars(Lines):
    """A bar for each stage, and a line below for a large file, or for a standby that follows.

    Log lines once the display has failed: a failing display never ends the work. Any exception of it switches
    it off, and is logged once.
    """

    def __init__(self, log: Log, display: "Display", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log, clock)
        self._display: Display | None = display
        self._stream = display.console.file
        self._task: TaskID | None = None
        self._switch = threading.Lock()
        self._turn = threading.RLock()
        self._following: tuple[str, int, float | None] | None = None

    def stage(self, name: str, total: int | None, unit: str, /, **facts: object) -> None:
        """Begin a stage of work, with a new bar unless the previous stage has the same name."""
        former = self._task if name == self._name else None
        self._begin(name, total, unit)
        # A follower has a line instead, except for as many changes as take a while.
        small = self._following is not None and (total or 0) < _LONG_STAGE

        def begin(display: "Display") -> None:
            if former is not None:
                # rich's reset keeps the old total if no new one is given, and drops the fields.
                display.remove_task(former)
            self._task = None if small else display.add_task(name, total=total, unit=unit, size="", left="")

        if not self._draw(begin) and facts:
            self._log.info(name, **facts)

    def advance(self, done: int, size: int = 0) -> None:
        """Move the bar."""
        self._count(done, size)

        def move(display: "Display") -> None:
            if self._task is not None:
                display.update(self._task, advance=done, total=self._total)
                self._refresh(display)

        if not self._draw(move):
            self._report()

    def following(self, url: str, serial: int) -> None:
        """Show where a standby that follows stands."""
        former = self._following
        changed = None if former is None else former[2] if former[1] == serial else self._clock()
        self._following = (url, serial, changed)

        def end(display: "Display") -> None:
            if self._task is not None:
                display.remove_task(self._task)
                self._task = None

        self._draw(end)

    def _tell(self) -> None:
        """Do nothing while the display is redrawn."""
        if self._display is None:
            self._report()

    def _refresh(self, display: "Display") -> None:
        """Show the bytes that have arrived, and the line below the bars."""
        units, speed = self._rates()
        size, rate = self._bytes(), f"{units:.0f}/s"
        left = self._left()
        if self._task is not None:
            display.update(
                self._task,
                size=f"{size / 1e6:.1f} MB  {speed / 1e6:.1f} MB/s" if size else rate,
                left="-:--:--" if left is None else str(timedelta(seconds=round(left))),
            )
        display.note = self._note()

    def _note(self) -> str:
        """Return the line below the bars."""
        now = self._clock()
        slow = [(one.since, name, one) for name, one in list(self._incoming.items())]
        if slow and now - min(slow)[0] >= _SLOW_SECONDS:
            _, name, one = min(slow, key=lambda each: each[0])
            of = "" if one.length is None else f" of {one.length / 1e6:.1f}"
            return f"{printable(name.rpartition('/')[2])}: {one.done / 1e6:.1f}{of} MB"
        if self._following is None:
            return ""
        url, serial, changed = self._following
        last = "no change yet" if changed is None else f"last change {duration(now - changed)} ago"
        return f"following {url} at serial {serial}; {last}"

    def write(self, text: str) -> None:
        """Write whole lines above the bars."""
        if not self._draw(lambda display: display.console.out(text, end="", highlight=False)):
            self._stream.write(text)
            self._stream.flush()

    def _draw(self, work: Callable[["Display"], object]) -> bool:
        """Return whether the display did its work; False forever once it has failed."""
        display = self._display
        if display is None:
            return False
        try:
            # The painter must not draw a task that is being removed.
            with self._turn:
                work(display)
        except Exception as err:  # noqa: BLE001 - a display must not end the work
            with self._switch:
                failed, self._display = self._display, None
            if failed is not None:
                with suppress(Exception):
                    failed.stop()
                self._log.warning("cannot show progress", error=f"{type(err).__name__}: {err}")
            return False
        return True

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraw the bars until the context ends; lines written to stderr appear above them."""
        ended = threading.Event()

        def draw() -> None:
            while not ended.wait(_DRAW_SECONDS):
                self._draw(paint)

        def paint(display: "Display") -> None:
            self._refresh(display)
            display.refresh()

        def start(display: "Display") -> None:
            display.start()
            # A killed process could not show the cursor again.
            display.console.show_cursor(True)

        def end(display: "Display") -> None:
            display.note = ""
            display.stop()

        # Not rich's own thread: an exception there ends it with a traceback.
        painter = threading.Thread(target=draw, name="progress", daemon=True)
        above = _Above(self)
        self._draw(start)
        painter.start()
        try:
            with redirect_stderr(above):
                yield
        finally:
            above.end()
            ended.set()
            painter.join()
            self._draw(end)


class _Above(io.TextIOBase):
    """A stderr whose lines appear above the bars; an incomplete line waits for its end."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._begun = ""
        self._turn = threading.RLock()

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        if not isinstance(text, str):
            # click tells a text stream by this.
            raise TypeError(f"not {type(text).__name__}")
        with self._turn:
            lines, end, self._begun = f"{self._begun}{text}".rpartition("\n")
        if end:
            self._bars.write(f"{lines}\n")
        return len(text)

    def end(self) -> None:
        """Write the incomplete line, if possible."""
        if self._begun:
            with suppress(OSError):
                self.write("\n")


def make_display(stream: TextIO, environment: Mapping[str, str] = os.environ) -> "Display":
    """Return a display for a terminal; it draws nothing until started."""
    from rich.console import Console

    from replisync.cli.display import Display

    # Without TERM assume a dumb terminal, which may not be able to redraw a line.
    return Display(Console(file=stream, _environ={"TERM": "dumb", **environment}))


@contextmanager
def shown(log: Log, *, bars: bool) -> Iterator[Progress]:
    """Show progress as bars if wanted and stderr is a terminal, else as log lines."""
    display = make_display(sys.stderr) if bars and sys.stderr.isatty() else None
    if display is None or not display.console.is_interactive:
        yield Lines(log)
        return
    drawn = Bars(log, display)
    with drawn.live():
        yield drawn
