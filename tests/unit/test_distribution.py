"""The distribution is devpi-replisync. No text installs it by a name: PyPI's replisync is another project."""

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

from replisync.cli.app import app
from replisync.seed.export.tools import TOOLS_REQUIREMENT, install_hint

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
CODE = sorted(
    path for folder in ("replisync", "migrations", "tests") for path in (ROOT / folder).rglob("*.py")
)
OTHERS = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run", *(ROOT / "examples").iterdir()]

# Both: until devpi-replisync is registered there, anyone may register it.
NAMES = {"replisync", "devpi-replisync"}

# pip, pip3.11, pipx, uv pip, uv tool, uv add, poetry add, pdm add
_INSTALL = re.compile(
    r"\b(?:pip[\d.]*|pipx|uv tool)[\"',\s]+(?:\S+[ ]+)??install\b|\b(?:uv|poetry|pdm) add\b"
)
# What ends a command, in a shell and in prose.
_END = re.compile(r"[`\n;|&#]")
_NAME = re.compile(r"([A-Za-z0-9._-]+?)(?:\[[^\]]*\])?(?:[=<>!~@,:.)]+.*)?")


def installed_names(text: str) -> set[str]:
    """Return those of our names that an index is asked for by commands in a text, or by an extra."""
    words = re.findall(r"(?<![\w/.-])((?:devpi-)?replisync)\[", text)
    text = text.replace("\\\n", " ")
    for command in _INSTALL.finditer(text):
        words += _END.split(text[command.end() :], maxsplit=1)[0].split()
    names = {match[1] for word in words if (match := _NAME.fullmatch(word.strip("'\"()[],.")))}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names} & NAMES


@pytest.mark.parametrize(
    "command",
    [
        "pip install replisync",
        "Run `/opt/replisync/bin/pip install -U replisync`.",
        "pip install 'replisync[seed]'",
        'python3 -m pip --quiet install --upgrade "replisync>=0.1,<1"',
        "pip3 install \\\n    Replisync==0.1.0",
        "pip install devpi-server replisync, or",
        "pipx install replisync",
        "uv pip install replisync",
        "uv tool install devpi_replisync",
        "poetry add replisync",
        "install replisync[seed], or devpi-server",
        'run("pip", "install", "replisync")',
    ],
)
def test_a_command_that_installs_by_name_is_found(command: str) -> None:
    assert installed_names(command)


@pytest.mark.parametrize(
    "command",
    [
        "/opt/replisync/bin/pip install /path/to/the/checkout",
        "pip install '/path/to/the/checkout[seed]'",
        "pip install ./replisync dist/devpi_replisync-0.1.0-py3-none-any.whl",
        "pip install devpi_replisync-0.1.0-py3-none-any.whl",
        "pip uninstall --yes replisync && pip install /path/to/replisync",
        "`pip install .`; then replisync runs",
        "python -m replisync, whose pip is that of the environment",
    ],
)
def test_a_command_that_does_not_is_not(command: str) -> None:
    assert not installed_names(command)


def _literals(path: Path) -> Iterator[str]:
    """Yield the strings of a module as they are at run time: in one piece, whatever lines they stand on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)


@pytest.mark.parametrize("path", [*PAGES, *CODE, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_installs_it_by_name(path: Path) -> None:
    if path == Path(__file__):
        return
    texts = [path.read_text(), *(_literals(path) if path.suffix == ".py" else ())]
    assert not set().union(*map(installed_names, texts))


def _helps(command: click.Command, context: click.Context) -> Iterator[str]:
    yield re.sub(r"\s+", " ", command.get_help(context))
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _helps(each, click.Context(each, context, name))


def test_no_help_installs_it_by_name() -> None:
    texts = list(_helps(app, click.Context(app, info_name="replisync")))
    assert len(texts) > len(app.commands)
    assert not set().union(*map(installed_names, texts))


def test_the_hint_for_missing_tools_installs_what_the_extra_does() -> None:
    assert PROJECT["optional-dependencies"]["seed"] == [TOOLS_REQUIREMENT]
    hint = install_hint("/srv/the venv/bin/python")
    assert f"`'/srv/the venv/bin/python' -m pip install '{TOOLS_REQUIREMENT}'`" in hint


def test_the_hint_installs_nothing_into_the_systems_python() -> None:
    hint = install_hint(None)
    assert TOOLS_REQUIREMENT in hint
    assert "virtual environment" in hint
    assert "`" not in hint


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md"])
def test_the_command_is_put_on_the_path_before_it_is_called(page: str) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    called = re.compile(r"(?:sudo -u \w+ )?replisync ")
    before = takewhile(lambda line: not called.match(line), "".join(blocks).splitlines())
    assert "ln -s /opt/replisync/bin/replisync /usr/local/bin/" in before
