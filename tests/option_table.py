"""`python -m tests.option_table`: write the table of all options into docs/commands.md, as the help has them."""

from collections.abc import Iterator
from pathlib import Path

import click

from replisync.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
BEGIN, END = "<!-- options:begin -->", "<!-- options:end -->"

Commands = dict[str, click.Command]


def commands(group: click.Group = app, prefix: str = "") -> Commands:
    """Return each command that does something, by its full name."""
    found: Commands = {}
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the options of a command with their meaning, as cells of a table."""
    for param in command.params:
        if not isinstance(param, click.Option) or param.hidden or "--help" in param.opts:
            continue
        kind = param.type
        values = r"\|".join(kind.choices) if isinstance(kind, click.Choice) else param.metavar
        words = [param.help or ""]
        words += ["Required."] if param.required else []
        words += [f"Default: {param.default}."] if param.show_default else []
        names = "/".join([", ".join(param.opts), *param.secondary_opts])
        yield f"`{names}{f' {values}' if values else ''}`", " ".join(word for word in words if word)


def table() -> str:
    """Return the options of all commands, a row for each meaning, with the commands that take it."""
    takers: dict[tuple[str, str], list[str]] = {}
    every = commands()
    for name in app.commands:
        for full in (one for one in every if one.split(" ")[0] == name):
            for row in options(every[full]):
                takers.setdefault(row, []).append(full)
    rows = ["| option | commands | meaning |", "|---|---|---|"]
    for (option, meaning), names in sorted(takers.items(), key=lambda item: -len(item[1])):
        rows.append(f"| {option} | {_short(names, every)} | {meaning} |")
    return "\n".join(rows)


def _short(names: list[str], every: Commands) -> str:
    """Return names of commands, with a group's name if all of its commands are among them."""
    for group in {name.split(" ")[0] for name in every if " " in name}:
        members = [name for name in every if name.startswith(f"{group} ")]
        if set(members) <= set(names):
            names = [name for name in names if name not in members] + [group]
    return ", ".join(names)


def written(page: str) -> str:
    """Return the page with the table between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
