"""The wheel alone is enough: installed elsewhere it clones, migrations and entry points included."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from replisync import __version__
from tests.support.devpi import Server
from tests.support.oracle import assert_replicated
from tests.support.pip import clean_environment
from tests.support.runs import arguments

ROOT = Path(__file__).parents[2]
SECONDS = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = ["build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    run(folder, [sys.executable, "-m", *command])
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The interpreter of an environment that has the wheel, and borrows our dependencies only."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    [packages] = home.glob("lib/python*/site-packages")
    # Without *.pth of ours, which would make the checkout importable.
    (packages / "dependencies.pth").write_text(f"{site_packages()}\n")
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(home, [*pip, "install", "--quiet", "--no-deps", "--no-index", wheel])
    return python


def site_packages() -> Path:
    """Return the folder that our dependencies are installed in."""
    import httpx

    return Path(httpx.__file__).parents[1]


def run(folder: Path, command: list[object]) -> str:
    """Run a command elsewhere than in the checkout; return what it says on stdout."""
    with clean_environment() as environment:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**environment, "PATH": os.defpath},
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_runs_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    """The version is the checkout's, and the code is not."""
    where = run(tmp_path, [python, "-c", "import replisync; print(replisync.__file__)"])
    assert where.startswith(str(python.parents[1]))
    said = run(tmp_path, [python.with_name("replisync"), "--version"])
    assert __version__ in said
    assert said == run(tmp_path, [python, "-m", "replisync", "--version"])


def test_it_clones(python: Path, tmp_path: Path, still: Server, secretfile: Path) -> None:
    """The clone makes our tables, by migrations that only the wheel can have brought."""
    target = tmp_path / "standby"
    options = ["--serverdir", target, "--primary-url", still.url, "--secretfile", secretfile]
    said = run(tmp_path, [python.with_name("replisync"), *arguments("clone", *options)])
    assert f"at serial {still.serial()}" in said
    assert_replicated(still, target, export=False, fsck=False)


def test_what_the_wheel_promises(python: Path, wheel: Path, tmp_path: Path) -> None:
    """The command, devpi-server's plugin, the marker of typed code; no tests, no documents."""
    script = (
        "from importlib.metadata import entry_points as found\n"
        "[command] = found(group='console_scripts', name='replisync')\n"
        "print(command.value, [p.value for p in found(group='devpi_server') if 'replisync' in p.value])"
    )
    said = run(tmp_path, [python, "-c", script])
    assert said == "replisync.cli:main ['replisync.plugin']\n"
    names = zipfile.ZipFile(wheel).namelist()
    assert "replisync/py.typed" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"replisync"}
