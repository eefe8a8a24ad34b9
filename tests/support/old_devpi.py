"""Releases of devpi-server with another protocol than today's, each in an environment of its own."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.releases import Release, parse_version

LAST_WITHOUT_STREAMING = "6.4.0"  # 6.5.0 streams the changelog
LAST_WITHOUT_BLOCKS = "4.8.1"  # 4.9.0 sends several entries at once
NEXT_GENERATION = "7.0.0b4"  # another format of the changelog, and of the state on disk

# All import pkg_resources (by way of Pyramid), which setuptools dropped in 81.
PINS = ("setuptools<81",)
# Before 5.5 devpi-server imports modules that Pyramid dropped in 2.0.
PINS_BEFORE_5_5 = (*PINS, "pyramid<2")

INSTALL_SECONDS = 580


def old_release(version: str) -> Release:
    """Return another devpi-server, installed with pip on first use and kept for later runs."""
    home = cache_dir() / "old-devpi" / f"{version}-py{sysconfig.get_python_version()}"
    marker = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_suffix(".lock")):
        if not marker.exists():
            _install(version, home)
            marker.touch()
    return Release(home / "bin", parse_version(version))


def cache_dir() -> Path:
    """Return where things that are slow to make are kept between runs."""
    default = Path(__file__).parents[2] / ".cache"
    return Path(os.environ.get("REPLISYNC_TEST_CACHE") or default)


def _install(version: str, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    # Our own pip installs into it: a second one would take longer than what it is for.
    venv.create(home, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    command += ["install", "--quiet", "--no-input"]
    pins = PINS if parse_version(version) >= (5, 5) else PINS_BEFORE_5_5
    command += ["--disable-pip-version-check", f"devpi-server=={version}", *pins]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        python = sys.version.split()[0]
        raise AssertionError(f"devpi-server {version} cannot be installed on {python}:\n{done.stdout}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time in."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
