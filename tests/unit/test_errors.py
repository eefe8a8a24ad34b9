"""The tree of errors: what each says, its exit code, and that the documentation names it."""

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from replisync import errors
from replisync.errors import LocalFailure, ReplisyncError, Stopped, UsageError

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def tree(cls: type[ReplisyncError] = ReplisyncError) -> Iterator[type[ReplisyncError]]:
    """Yield the classes of our errors, a class before those below it."""
    yield cls
    for below in cls.__subclasses__():
        yield from tree(below)


ALL = [cls for cls in tree() if cls.__module__ == errors.__name__]


def test_every_error_of_the_package_is_one_of_the_tree() -> None:
    defined = [value for value in vars(errors).values() if isinstance(value, type)]
    assert set(defined) & set(tree()) == set(ALL)
    assert [cls for cls in defined if issubclass(cls, Exception) and cls not in ALL] == []


def test_the_tree_that_the_module_draws_is_the_real_one() -> None:
    drawn = re.findall(
        r"^ {4}([ │]*)(?:[├└]── )?(\w+)(?: +(\d+)  (.*))?$", errors.__doc__ or "", re.MULTILINE
    )
    found = []
    path: list[str] = []
    for indent, name, code, words in drawn:
        depth = 0 if name == "ReplisyncError" else len(indent) // 4 + 1
        path = [*path[:depth], name]
        found.append((name, path[-2] if depth else None, code, "(transient" in words))
    expected = [
        (
            cls.__name__,
            None if cls is ReplisyncError else cls.__bases__[0].__name__,
            "" if cls is ReplisyncError else str(cls.exit_code),
            cls.transient,
        )
        for cls in ALL
    ]
    assert found == expected


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
class TestEachClass:
    """What holds for every class of errors."""

    def test_its_exit_code_is_one_of_the_contract(self, cls: type[ReplisyncError]) -> None:
        assert cls.exit_code in range(1, 10) or cls is Stopped
        assert (cls.exit_code == 143) == (cls is Stopped)
        assert (cls.exit_code == 1) == (cls is ReplisyncError)

    def test_it_has_a_docstring_and_a_hint(self, cls: type[ReplisyncError]) -> None:
        assert cls.__doc__
        assert cls.default_hint
        assert not str(cls.default_hint).endswith(".")

    def test_what_may_pass_may_pass_by_waiting(self, cls: type[ReplisyncError]) -> None:
        assert cls.transient == (cls.exit_code in (3, 7))

    def test_its_message_says_what_where_why_and_what_to_do(self, cls: type[ReplisyncError]) -> None:
        text = str(cls("cannot fetch a/b", "the wind blew", serial=41, hint="wait for the wind"))
        assert text == "cannot fetch a/b at serial 41: the wind blew. Wait for the wind."

    def test_its_message_without_serial_and_hint_is_a_sentence_too(self, cls: type[ReplisyncError]) -> None:
        text = str(cls("cannot fetch a/b", "the wind blew"))
        assert text.startswith("cannot fetch a/b: the wind blew. ")
        assert str(cls.default_hint)[1:] in text
        assert text.endswith(".")
        assert "\n" not in text

    @pytest.mark.parametrize("how", ["pickle", "copy"])
    def test_it_survives_pickling_with_everything(self, cls: type[ReplisyncError], how: str) -> None:
        before = cls("fetch", "why", serial=0, hint="hint")
        before.details = {"state": "behind"}
        after = pickle.loads(pickle.dumps(before)) if how == "pickle" else copy.copy(before)  # noqa: S301
        assert type(after) is cls
        assert (after.attempted, after.why, after.serial, after.hint) == ("fetch", "why", 0, "hint")
        assert after.details == {"state": "behind"}
        assert str(after) == str(before)

    def test_the_documentation_lists_it_with_its_exit_code(self, cls: type[ReplisyncError]) -> None:
        assert documented_classes().get(cls.__name__) == cls.exit_code


PACKAGE = Path(__file__).parents[2] / "replisync"


def attempts() -> Iterator[tuple[str, str]]:
    """Yield where something is said to have been attempted, and how the text begins."""
    takers = {cls.__name__ for cls in ALL} | {"local_errors"}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            texts: list[ast.expr] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in takers:
                texts = node.args[:1]
            elif isinstance(node, ast.Assign) and "attempted" in ast.unparse(node.targets[0]).lower():
                texts = [node.value]
            for text in texts:
                first = text.values[0] if isinstance(text, ast.JoinedStr) else text
                if isinstance(first, ast.Constant):
                    yield f"{path.relative_to(PACKAGE)}:{text.lineno}", str(first.value)


def test_every_message_begins_with_what_cannot_be_done() -> None:
    found = list(attempts())
    assert len(found) > 150
    assert [one for one in found if not one[1].startswith("cannot ")] == []


def rows() -> list[list[str]]:
    """Return the cells of all rows of the tables in docs/exit-codes.md, without the marks of code."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def documented_classes() -> dict[str, int]:
    """Return the exit codes that the document gives to classes."""
    names = {cls.__name__ for cls in ALL}
    found = {}
    for row in rows():
        codes = [int(cell) for cell in row if cell.isdigit()]
        for cell in row:
            for word in re.findall(r"\w+", cell):
                if word in names and codes:
                    found[word] = codes[0]
    return found


def test_the_documentation_explains_every_exit_code() -> None:
    explained = {int(row[0]): row[1:] for row in rows() if row[0].isdigit()}
    assert set(explained) >= {0, 1, *(cls.exit_code for cls in ALL)}
    assert all(cells and all(cells[:1]) for cells in explained.values())


def test_the_documentation_lists_no_class_that_there_is_not() -> None:
    listed = {row[0] for row in rows() if len(row) == 3 and row[1].isdigit() and not row[0].isdigit()}
    assert listed == {cls.__name__ for cls in ALL}


def test_an_error_keeps_its_cause() -> None:
    def act() -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as err:
            raise LocalFailure("writing", "full") from err

    with pytest.raises(LocalFailure) as caught:
        act()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_hint_that_is_empty_is_the_one_of_the_class() -> None:
    assert UsageError("a", "b", hint="").hint == UsageError.default_hint


def test_a_cause_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    assert "gone. Look" in str(LocalFailure("a look", "it is gone.", hint="look again"))
