"""The program speaks plainly: no text of its code, and no help, has a phrase that is banned."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import replisync
from replisync import errors
from replisync.cli.app import app
from tests.support.idioms import find

ROOT = Path(replisync.__file__).parent

# Rooms that are not reworded yet.
LATER = ("seed",)
SOURCES = sorted(p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] not in LATER)

ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ReplisyncError)
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings, docstrings and comments of a module, each with the number of its line.

    The comments of successive lines are one text.
    """
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(_piece(value) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    comment, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield last, comment
                comment = ""
            comment, last = f"{comment}{token.string.removeprefix('#')}", token.start[0]
    yield last, comment


def _piece(value: ast.expr) -> str:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "VALUE"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_of_the_code_has_a_banned_phrase(path: Path) -> None:
    found = [f"{path}:{line}: {match}" for line, text in texts(path) for match in find(text)]
    assert found == []


def helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the help of a command and of those below it."""
    yield context.command_path, command.get_help(context)
    for name, each in getattr(command, "commands", {}).items():
        yield from helps(each, click.Context(each, context, name))


@pytest.mark.parametrize(
    ("command", "text"),
    [*helps(app, click.Context(app, info_name="replisync"))],
    ids=lambda value: value[:30],
)
def test_no_help_has_a_banned_phrase(command: str, text: str) -> None:
    assert [f"{command} --help: {match}" for match in find(text)] == []


def attempts(tree: ast.Module, takers: dict[str, int]) -> Iterator[ast.expr]:
    """Yield the literals that say what was attempted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            position = 0 if name in ERRORS else takers.get(name, len(node.args))
            yield from node.args[position : position + 1]
            yield from (each.value for each in node.keywords if each.arg == "attempted")
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = (
                    zip(target.elts, node.value.elts, strict=True)
                    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                    else [(target, node.value)]
                )
                yield from (value for name, value in pairs if "attempted" in getattr(name, "id", "").lower())


def takers(trees: list[ast.Module]) -> dict[str, int]:
    """Return the functions that are told what is attempted, with the position of that argument."""
    found = {}
    for node in (each for tree in trees for each in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            if "attempted" in names and node.name != "get":
                found[node.name] = names.index("attempted")
    return found


def literals(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression can be, as far as they are written there."""
    if isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(_piece(value) for value in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_every_error_says_what_cannot_be_done() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))]
    known = takers(trees)
    named = [text for tree in trees for each in attempts(tree, known) for text in literals(each)]
    assert len(named) > 100
    assert [text for text in named if not text.startswith("cannot ")] == []
