"""The rooms: who may import whom, by the contracts in pyproject.toml."""

import shutil
import subprocess
import sys
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
