"""`python -m tests.picture`: draw the terminal of README.md from what the demo really prints.

DEMO: a file with the output of an earlier `make demo`; without it the demo is run.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
COLUMNS = 104
# The steps of the demo that show the main job, by their numbers.
STEPS = ("3", "4", "5", "7")


def steps(output: str) -> list[str]:
    """Return the lines of the steps that are shown."""
    parts = re.split(r"^(?=\d+\. )", output, flags=re.MULTILINE)
    chosen = [part for part in parts if part.partition(".")[0] in STEPS]
    return "\n".join(part.rstrip() + "\n" for part in chosen).rstrip().splitlines()


def draw(lines: list[str]) -> str:
    """Return the lines on a terminal, as SVG without anything that is loaded from elsewhere."""
    console = Console(
        width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for line in lines:
        style = "bold" if line[:1].isdigit() else "green" if line.lstrip().startswith("$ ") else ""
        console.print(Text(line.removeprefix("   "), style=style), no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title="make demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "Menlo, Consolas")


def main(argv: list[str]) -> int:
    """Write the picture."""
    if argv:
        output = Path(argv[0]).read_text()
    else:
        output = subprocess.run(
            [sys.executable, "-m", "tests.demo"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    lines = steps(output)
    if len(lines) < 20:
        print("picture: the output of the demo has not the steps that are shown", file=sys.stderr)
        return 1
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(lines))
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
