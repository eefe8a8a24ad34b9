"""The wheel alone is enough: installed elsewhere it clones, migrations and entry points included."""

import os
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from replisync import __version__
from tests.support.devpi import Server
from tests.support.oracle import assert_replicated
from tests.support.pip import clean_environment
from tests.support.runs import arguments

ROOT = Path(__file__).parents[2]
SECONDS = 120
OFFLINE = ("--no-deps", "--no-index")


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
    return environment(tmp_path_factory.mktemp("venv"), wheel)


def environment(home: Path, *wheels: Path) -> Path:
    """Make an environment with wheels, installed in this order, that borrows our dependencies only."""
    venv.create(home, with_pip=False, symlinks=True)
    [packages] = home.glob("lib/python*/site-packages")
    # Without *.pth of ours, which would make the checkout importable.
    (packages / "dependencies.pth").write_text(f"{site_packages()}\n")
    python = home / "bin" / "python"
    for wheel in wheels:
        run(home, [*pip(python), "install", "--quiet", *OFFLINE, wheel])
    return python


def pip(python: Path) -> list[object]:
    """Return the command line of our pip, working on an environment."""
    return [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]


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
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"replisync", "devpi_replisync"}


def test_the_wheel_says_where_the_project_is(wheel: Path) -> None:
    """PyPI's `replisync` is another project: the distribution has a name of its own."""
    [name] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    metadata = message_from_bytes(zipfile.ZipFile(wheel).read(name))
    assert metadata["Name"] == "devpi-replisync"
    links = dict(link.split(", ") for link in metadata.get_all("Project-URL", []))
    assert list(links) == ["Homepage", "Documentation", "Source", "Changelog"]
    assert all(link.startswith("https://") for link in links.values())


def test_without_devpi_server_the_hint_installs_it(python: Path, tmp_path: Path) -> None:
    """As it stands. The environment has no devpi-import; its borrowed devpi-server saves the download."""
    dump = tmp_path / "dump"
    dump.mkdir()
    (dump / "dataindex.json").write_text("{}")
    words = ["clone", "--from-export", dump, "--serverdir", tmp_path / "standby"]
    with pytest.raises(AssertionError, match="devpi-import not found") as failed:
        run(tmp_path, [python.with_name("replisync"), *words])
    hint = re.search(r"`(.+)`", str(failed.value))
    assert hint, failed.value
    command = shlex.split(hint[1])
    assert Path(command[0]).parent == python.parent
    assert "already satisfied: devpi-server" in run(tmp_path, [*command, *OFFLINE])


# The way from the distribution `replisync`, as docs/upgrading.md has it.


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The wheel under the former name of the distribution."""
    info, former_info = f"devpi_replisync-{__version__}.dist-info", "replisync-0.1.0.dist-info"
    former = tmp_path_factory.mktemp("former") / "replisync-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as new, zipfile.ZipFile(former, "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.startswith(info):
                content = content.replace(info.encode(), former_info.encode())
                content = content.replace(b"\nName: devpi-replisync\n", b"\nName: replisync\n")
            old.writestr(name.replace(info, former_info), content)
    return former


def upgrade(python: Path, wheel: Path, block: int) -> None:
    """Run the lines with pip of a block of code in the page's last section."""
    text = (ROOT / "docs" / "upgrading.md").read_text().split("\n## From `replisync` 0.1.0\n")[1]
    lines = text.split("\n```\n")[2 * block + 1].splitlines()
    commands = [words[1:] for words in map(shlex.split, lines) if words[0] == "/opt/replisync/bin/pip"]
    assert commands
    for command in commands:
        words = [wheel if word == "/path/to/the/checkout" else word for word in command]
        run(wheel.parent, [*pip(python), *words, *(OFFLINE if "install" in words else ())])


def distributions(python: Path) -> set[str]:
    """Return which of the two names the environment itself has."""
    found = python.parents[1].glob("lib/python*/site-packages/*replisync-*.dist-info")
    return {path.name.partition("-")[0] for path in found}


def test_the_documented_upgrade_leaves_the_new_distribution_alone(
    tmp_path: Path, wheel: Path, former: Path
) -> None:
    python = environment(tmp_path / "opt", former)
    assert distributions(python) == {"replisync"}
    upgrade(python, wheel, 0)
    assert distributions(python) == {"devpi_replisync"}
    assert __version__ in run(tmp_path, [python.with_name("replisync"), "--version"])


def test_one_installed_over_the_former_is_put_right_as_documented(
    tmp_path: Path, wheel: Path, former: Path
) -> None:
    """Both own the same files: without the last step the command would be gone."""
    python = environment(tmp_path / "opt", former, wheel)
    assert distributions(python) == {"replisync", "devpi_replisync"}
    upgrade(python, wheel, 1)
    assert distributions(python) == {"devpi_replisync"}
    assert __version__ in run(tmp_path, [python.with_name("replisync"), "--version"])
