"""`python -m tests.picture`: run the demo, and draw a part of what it printed as the picture of the README."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "session.svg"

# What the commands begin with that are shown, in the order of the demo.
SHOWN = (
    "replisync derive-key ",
    "replisync clone ",
    "replisync follow ",
    "replisync status --serverdir standby",
    "kill -KILL ",
    "replisync promote ",
    "devpi-server --serverdir standby ",
)
# Lines of the story that say no more than others do.
_LEFT_OUT = re.compile(r"upload \d+:|start it:")
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
_WIDTH = 116


class Told(NamedTuple):
    """A command of the demo, with the title of its step and the lines that follow it."""

    title: str
    command: str
    lines: list[str]


def told(story: str) -> Iterator[Told]:
    """Yield the commands of the demo in their order."""
    title, lines = "", []
    for line in story.splitlines():
        if step := re.match(r"\d+\. (.*)", line):
            title, lines = step[1], []
        elif line.startswith("   $ "):
            lines = []
            yield Told(title, line.removeprefix("   $ "), lines)
        elif line.startswith("     ") and not _LEFT_OUT.match(line.strip()):
            lines.append(line.removeprefix("     "))


def chosen(story: str) -> list[Told]:
    """Return the commands that are shown.

    Raises ValueError if the demo does not run them in this order.
    """
    found: list[Told] = []
    for each in list(told(story)):
        beginning = SHOWN[len(found)]
        if each.command == beginning or (beginning.endswith(" ") and each.command.startswith(beginning)):
            found.append(each)
        if len(found) == len(SHOWN):
            return found
    raise ValueError(f"the demo does not run `{SHOWN[len(found)]}`")


def drawn(story: str) -> str:
    """Return the picture. It loads nothing from elsewhere: its fonts are those of the reader."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), highlight=False)
    title = ""
    for each in chosen(story):
        if each.title != title:
            title = each.title
            console.print(Text(f"# {title}", style="bright_black"))
        console.print(Text.assemble(("$ ", "bold green"), (each.command, "bold")))
        for line in each.lines:
            console.print(Text(line))
    return _FONTS.sub("", console.export_svg(title="make demo", unique_id="replisync"))


def main() -> int:
    """Run the demo and write the picture."""
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo"], stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    if demo.returncode:
        print(demo.stdout, file=sys.stderr)
        return demo.returncode
    PICTURE.write_text(drawn(demo.stdout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
