"""The rooms: who may import whom, by the contracts in pyproject.toml."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a checkout."""
    return subprocess.run(
        [str(LINTER), "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package with its contracts, to break."""
    shutil.copytree(
        ROOT / "replisync", tmp_path / "replisync", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_goes_down_and_every_library_is_at_home() -> None:
    said = lint(ROOT)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("standby/serverdir.py", "import replisync.session.session", "Every import goes down"),
        ("seed/ways.py", "import replisync.verify.run", "Every import goes down"),
        ("replication/loop.py", "import replisync.primary.client", "The loop knows no primary"),
        ("replication/settle.py", "import os", "The loop opens no file"),
        ("devpi/keys.py", "import pathlib", "do no I/O"),
        ("operations/promote.py", "import httpx", "HTTP is the primary's"),
        ("plugin.py", "import replisync.errors", "The plugin runs inside devpi-server"),
        ("standby/files/sync.py", "import replisync.standby.files.disk", "No circle"),
        ("stray.py", "", "Every import goes down, and every module lies in a room"),
    ],
)
def test_a_module_that_breaks_a_rule_is_found(checkout: Path, module: str, line: str, broken: str) -> None:
    path = checkout / "replisync" / module
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}\n{line}\n")
    said = lint(checkout)
    assert said.returncode != 0
    assert any(broken in one and "BROKEN" in one for one in said.stdout.splitlines()), said.stdout


# Rooms up to `session` know the modules of those below them; all others, also ones to come, know faces.
BELOW = {"errors", "system", "devpi", "changelog", "primary", "standby", "replication", "session"}


def face(package: Path, room: str) -> set[str]:
    """Return the names that a room hands on."""
    for node in ast.parse((package / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def past_faces(package: Path) -> Iterator[str]:
    """Yield each import of what another room does not hand on, by a module of a room above `session`."""
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        if room.endswith(".py") or room in BELOW:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            for module in modules:
                first, _, rest = module.partition(".")
                other, _, inner = rest.partition(".")
                if first != "replisync" or other in ("", "errors", room):
                    continue
                unknown = (
                    [inner] if inner or isinstance(node, ast.Import) else set(names) - face(package, other)
                )
                yield from (f"{path.relative_to(package)}: {module}: {name}" for name in unknown)


def test_rooms_above_the_session_import_faces_alone() -> None:
    assert list(past_faces(ROOT / "replisync")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from replisync.standby.serverdir import Serverdir",
        "from replisync.standby import _private",
        "import replisync.standby.serverdir",
        "import replisync.standby",
    ],
)
@pytest.mark.parametrize("module", ["operations/promote.py", "archive/target.py"])
def test_an_import_past_a_face_is_found(checkout: Path, module: str, line: str) -> None:
    path = checkout / "replisync" / module
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    assert len(list(past_faces(checkout / "replisync"))) == 1
