"""The documentation names what exists: commands, options, exit codes, tables, files and targets."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sqlalchemy import Table

from replisync import errors
from replisync.cli.app import app
from replisync.standby.database import tables
from replisync.verify.findings import KINDS
from tests.support.idioms import find

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md")])
# Those that are kept in plain words; the changelog of past releases stays as it was.
TEXTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "migrations/README.md")),
        *DOCS.rglob("*.md"),
    ]
)


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _commands(group: click.Group = app, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield each command that does something, by its full name."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(_commands())


def _section(page: Path, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or a higher one."""
    text = page.read_text()
    assert f"\n{heading}\n" in text, f"{page.name} has no heading {heading!r}"
    level = heading.split(" ")[0]
    body = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"\n#{{1,{len(level)}}} ", body)[0]


def _rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables, without heads."""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not set(line) <= set("|- :") and not set(following or "x") <= set("|- :"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return found


# Commands and options.


def _options(command: click.Command) -> Iterator[str]:
    """Yield the options of a command, as its help names them."""
    for param in command.params:
        late = isinstance(param, click.Option) and not param.expose_value and command is not app
        if isinstance(param, click.Option) and not (param.hidden or late or "--help" in param.opts):
            kind = param.type
            values = r"\|".join(kind.choices) if isinstance(kind, click.Choice) else param.metavar
            names = "/".join([", ".join(param.opts), *param.secondary_opts])
            yield names + (f" {values}" if values else "")


def test_every_option_is_documented_with_the_commands_that_take_it() -> None:
    documented = set()
    for options, commands in _rows(_section(DOCS / "commands.md", "## Options of the commands")):
        for name in re.findall(r"`([^`]+)`", commands):
            group = [command for command in COMMANDS if command.startswith(f"{name} ")]
            for taker in group or [name]:
                documented |= {(taker, option) for option in re.findall(r"`([^`]+)`", options)}
    assert documented == {(name, option) for name in COMMANDS for option in _options(COMMANDS[name])}


def test_the_options_before_a_command_are_documented() -> None:
    rows = _rows(_section(DOCS / "commands.md", "## Options before the command"))
    assert [row[0].strip("`") for row in rows] == list(_options(app))


def test_no_command_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^## `(.+)`$", (DOCS / "commands.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(COMMANDS)


def _code(page: Path) -> Iterator[str]:
    """Yield the pieces of a page that are code: lines of blocks, and spans."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in [*blocks, "\n".join(re.findall(r"^ {4,}(.*)", prose, re.MULTILINE))]:
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose)


def _invocations(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `replisync` wherever code calls it with a command."""
    for code in _code(page):
        match = re.match(r"(?:[$#] )?(?:sudo -u \w+ )?(?:\S*/)?replisync ([^ #|>][^#|>]*)", code.strip())
        if match and "COMMAND" not in match[1]:
            yield shlex.split(match[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_lines_of_a_page_are_ones_that_replisync_takes(page: Path) -> None:
    for words in _invocations(page):
        command: click.Command = app
        known = {option for param in app.params for option in param.opts} | {"--help", "--version"}
        for word in words:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
                known |= {option for param in command.params for option in param.opts}
            elif word.startswith("--"):
                assert word.split("=")[0] in known, f"{word} in `replisync {shlex.join(words)}`"
        assert command is not app or not known.isdisjoint(words), f"`replisync {shlex.join(words)}`"


# Exit codes.


def _classes(
    base: type[errors.ReplisyncError] = errors.ReplisyncError,
) -> Iterator[type[errors.ReplisyncError]]:
    yield base
    for cls in base.__subclasses__():
        yield from _classes(cls)


def _table(page: Path, *head: str) -> list[list[str]]:
    lines = page.read_text().splitlines()
    start = lines.index(f"| {' | '.join(head)} |")
    body = lines[start:]
    end = next((number for number, line in enumerate(body) if not line.startswith("|")), len(body))
    return _rows("\n".join(body[:end]))


def test_every_exit_code_is_documented() -> None:
    codes = [row[0] for row in _table(DOCS / "exit-codes.md", "code", "meaning", "what to do")]
    assert sorted(map(int, codes)) == sorted({0, *(cls.exit_code for cls in _classes())})


def test_every_error_is_documented_with_its_exit_code() -> None:
    documented = {row[0]: int(row[1]) for row in _table(DOCS / "exit-codes.md", "error", "code", "when")}
    assert documented == {f"`{cls.__name__}`": cls.exit_code for cls in _classes()}


# Tables, files, targets.


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_column_of_our_tables_is_documented(table: Table) -> None:
    documented = [row[0] for row in _rows(_section(ROOT / "migrations" / "README.md", f"## `{table.name}`"))]
    assert documented == [f"`{column.name}`" for column in table.columns]


@pytest.mark.parametrize("page", TEXTS, ids=_relative)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors that a page has for its headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=_relative)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*\.md)?#([^)]+)\)", page.read_text()):
        assert anchor in _anchors(page.parent / target if target else page), f"{page.name} links to #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)", page.read_text()))
    assert named <= targets


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    tested = (ROOT / "tests" / "constraints.txt").read_text().split()
    bounds = {name: bound for name, _, bound in (line.partition(">=") for line in declared)}
    versions = {name: version for name, _, version in (line.partition("==") for line in tested)}
    assert bounds.keys() == versions.keys()
    for name, bound in bounds.items():
        assert f"{versions[name]}.".startswith(f"{bound}.")


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "README.md").read_text()
    assert not [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in index]


def test_every_kind_of_finding_is_documented() -> None:
    rows = _table(DOCS / "verify.md", "kind", "what is wrong")
    assert [row[0] for row in rows] == [f"`{kind}`" for kind in KINDS]


# Words.


@pytest.mark.parametrize("page", TEXTS, ids=_relative)
def test_no_page_has_a_banned_phrase(page: Path) -> None:
    assert [f"{_relative(page)}, {match}" for match in find(page.read_text())] == []
