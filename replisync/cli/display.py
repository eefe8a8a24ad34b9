"""The bars on a terminal, and a line of text below them."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_BAR_WIDTH = 24


class Display(Progress):
    """Draws only when it is told to.

    note: the line below the bars; "" for none.
    """

    def __init__(self, console: Console) -> None:
        self.note = ""
        super().__init__(
            TextColumn("{task.description:>14}"),
            BarColumn(_BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[size]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, and the line."""
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(self.note, no_wrap=True, overflow="ellipsis")
