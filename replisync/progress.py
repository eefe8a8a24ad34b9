"""How far a long piece of work is: a display on a terminal, log lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from replisync.ports import Log, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

_LINE_SECONDS = 5.0


class Lines:
    """A log line every few seconds."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self.stage("", None, "")

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin a stage of work; its rate and its time left are counted from here."""
        self._name, self._total, self._unit = name, total, unit
        self._done = self._size = 0
        self._started = self._shown = self._clock()

    def advance(self, done: int, size: int = 0) -> None:
        """Count, and say so where it is time."""
        self._done += done
        self._size += size
        now = self._clock()
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        left = None if self._total is None or not rate else round(max(0, self._total - self._done) / rate)
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


class Bars:
    """A bar for each stage, with its rate and the time left."""

    def __init__(self, display: "Display") -> None:
        self._display = display
        self._task: TaskID | None = None
        self._name = ""
        self._size = 0

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin a stage of work, with a bar of its own unless it is the last one again."""
        self._size = 0
        if self._task is not None and name == self._name:
            self._display.reset(self._task, total=total or None, size="0 MB", rate="")
            return
        self._name = name
        self._task = self._display.add_task(name, total=total or None, unit=unit, size="0 MB", rate="")

    def advance(self, done: int, size: int = 0) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._size += size
        self._display.advance(self._task, done)
        speed = self._display.tasks[-1].finished_speed or self._display.tasks[-1].speed
        self._display.update(
            self._task, size=f"{self._size / 1e6:.1f} MB", rate=f"{speed:.0f}/s" if speed else ""
        )


@contextmanager
def shown(log: Log) -> Iterator[Progress]:
    """Show progress in the way that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines(log)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[size]}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as display:
        yield Bars(display)
