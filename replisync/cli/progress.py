"""Progress of long work: a display on a terminal, log lines elsewhere."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from typing import TYPE_CHECKING, TextIO

from replisync.changelog import Log, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

_LINE_SECONDS = 5.0
_DRAW_SECONDS = 0.1


class Lines:
    """A log line every few seconds."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._begin("", None, "")

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin a stage of work; its rate and remaining time are measured from here."""
        self._begin(name, total, unit)

    def advance(self, done: int, size: int = 0) -> None:
        """Count, and log a line if one is due."""
        self._count(done, size)
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

    def _rate(self) -> float:
        passed = self._clock() - self._started
        return self._done / passed if passed > 0 else 0.0

    def _report(self) -> None:
        now = self._clock()
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        rate = self._rate()
        left = None if self._total is None or not rate else round((self._total - self._done) / rate)
        self._log.info(
            "progress",
            stage=self._name,
            done=self._done,
            total=self._total,
            unit=self._unit,
            bytes=self._size,
            per_second=round(rate, 1),
            seconds_left=left,
        )


class Bars(Lines):
    """A bar for each stage; log lines once the display has failed.

    A failing display never ends the work: any exception of it switches it off, and is logged once.
    """

    def __init__(self, log: Log, display: "Display", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log, clock)
        self._display: Display | None = display
        self._stream = display.console.file
        self._task: TaskID | None = None
        self._switch = threading.Lock()

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin a stage of work, with a new bar unless the previous stage has the same name."""
        former = self._task if name == self._name else None
        self._begin(name, total, unit)

        def begin(display: "Display") -> None:
            if former is not None:
                # rich's reset keeps the old total if no new one is given, and drops the fields.
                display.remove_task(former)
            self._task = display.add_task(name, total=total, unit=unit, size="0 MB", rate="")

        self._draw(begin)

    def advance(self, done: int, size: int = 0) -> None:
        """Move the bar."""
        self._count(done, size)

        def move(display: "Display") -> None:
            if self._task is not None:
                size, rate = f"{self._size / 1e6:.1f} MB", f"{self._rate():.0f}/s"
                display.update(self._task, advance=done, total=self._total, size=size, rate=rate)

        if not self._draw(move):
            self._report()

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
                self._draw(lambda display: display.refresh())

        def start(display: "Display") -> None:
            display.start()
            # A killed process could not show the cursor again.
            display.console.show_cursor(True)

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
            self._draw(lambda display: display.stop())


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
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[size]}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        # Without TERM assume a dumb terminal, which may not be able to redraw a line.
        console=Console(file=stream, _environ={"TERM": "dumb", **environment}),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


@contextmanager
def shown(log: Log) -> Iterator[Progress]:
    """Show progress as bars if stderr is a terminal, else as log lines."""
    display = make_display(sys.stderr) if sys.stderr.isatty() else None
    if display is None or not display.console.is_interactive:
        yield Lines(log)
        return
    bars = Bars(log, display)
    with bars.live():
        yield bars
