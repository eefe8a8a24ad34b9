"""Which devpi-server installation a test runs, and how its command line differs from today's."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

from tests.support import forked

# devpi-server's own commands that the tests run often, and the functions that they are.
TOOLS = {
    "devpi-init": "init:init",
    "devpi-export": "importexport:export",
    "devpi-import": "importexport:import_",
    "devpi-fsck": "fsck:fsck",
}

FAST_ARGON2 = ("--argon2-memory-cost", "64", "--argon2-parallelism", "1", "--argon2-time-cost", "1")


@dataclass(frozen=True)
class Release:
    """One installed devpi-server: the folder of its commands and its version."""

    bin_dir: Path
    version: tuple[int, ...]
    has_web: bool = False  # devpi-web is installed too, and the launcher can leave it out

    @property
    def python(self) -> Path:
        """The interpreter of the installation."""
        return self.bin_dir / "python"

    @property
    def primary_role(self) -> str:
        """The value of `--role` for a server that others replicate from."""
        return "primary" if self.version >= (6, 13) else "master"

    @property
    def primary_url_option(self) -> str:
        """The option that names the primary to a replica."""
        return "--primary-url" if self.version >= (6, 13) else "--master-url"

    @property
    def init_command(self) -> tuple[str, ...]:
        """The command that creates a serverdir."""
        return ("devpi-init",) if self.version >= (5,) else ("devpi-server", "--init")

    @property
    def has_argon2(self) -> bool:
        """Whether the server derives keys with argon2 and has the options to make that cheap."""
        return self.version >= (6, 0)


def current_release() -> Release:
    """Return the installation of the interpreter that runs the tests."""
    # Not resolved: a virtual environment's python is a link to the one that it was made with.
    return Release(
        Path(sys.executable).parent, parse_version(installed_version("devpi-server")), has_web=True
    )


def parse_version(text: str) -> tuple[int, ...]:
    """Turn `6.20.3` into (6, 20, 3)."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def run_tool(
    name: str,
    *args: object,
    release: Release | None = None,
    check: bool = True,
    timeout_seconds: float = 300,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of devpi's commands and fail with its output if it fails."""
    current = current_release()
    command = [str((release or current).bin_dir / name), *map(str, args)]
    if forked.wanted() and release in (None, current) and name in TOOLS and cwd is None and env is None:
        program = f"devpi_server.{TOOLS[name]}"
        done = forked.run(program, command, timeout_seconds, together=True)
    else:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            cwd=cwd,
            env=env,
            check=False,
        )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return done
