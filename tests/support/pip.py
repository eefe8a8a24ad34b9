"""The real pip and the real devpi-client, kept away from the user's settings and from other servers."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.releases import run_tool

PIP_SECONDS = 300


def pip_install(
    index_url: str, package: str, into: Path, *options: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Install a package from one index, without its dependencies' help from elsewhere, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--target", str(into), "--index-url", index_url]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", *options, package]
    with clean_environment() as environment:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=PIP_SECONDS,
            check=False,
        )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return done


def devpi_upload(index_url: str, user: str, password: str, files: Iterable[Path]) -> str:
    """Log in with devpi-client, upload built files and return what it printed."""
    with clean_environment() as environment:
        clientdir = Path(environment["HOME"]) / "devpi"

        def devpi(command: str, *args: object) -> str:
            arguments = [command, "--clientdir", clientdir, *args]
            return run_tool("devpi", *arguments, env=environment, cwd=Path(environment["HOME"])).stdout

        devpi("use", index_url)
        devpi("login", user, f"--password={password}")
        return devpi("upload", *files)


@contextmanager
def clean_environment() -> Iterator[dict[str, str]]:
    """Yield an environment without proxies, without settings of pip, and with an empty home."""
    foreign = ("PIP_", "DEVPI_", "PYTHON", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    with tempfile.TemporaryDirectory() as home:
        yield {**kept, "HOME": home, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"}
