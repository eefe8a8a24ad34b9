"""devpi's own commands, run as they are: an export is made, and imported, by nobody else."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from replisync.errors import UsageError
from replisync.replication import Context
from replisync.system import local_errors, write_file

EXPORT_TOOL = "devpi-export"
IMPORT_TOOL = "devpi-import"

# What has them, as the extra `seed` of pyproject.toml requires it.
TOOLS_REQUIREMENT = "devpi-server>=6.20,<7"

# devpi's commands take options from these variables too, and from files of the machine where no other is
# named: they may be those of a server here, with its database. Ours, and PostgreSQL's, may hold secrets.
_VARIABLES = ("DEVPISERVER_", "DEVPI_SERVERDIR", "REPLISYNC_", "PG")

_LOOK_SECONDS = 0.2

# Becomes a command that is killed when the process behind the number does not live any more: what outlives us
# would go on writing where the next run works. 1 is PR_SET_PDEATHSIG of <linux/prctl.h>; elsewhere there is
# none.
_BECOME = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# The last words of a command that are repeated where it fails, in bytes and lines.
_WORDS_BYTES = 4096
_WORDS_LINES = 6
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """Options of devpi-import, and one of devpi-export, that are passed on.

    no_root_pypi: leave the mirror root/pypi out.
    no_events: leave events to the first start of the server.
    root_passwd, root_passwd_hash: what the user root gets who has no password in the dump.
    skip_import_type: types of indexes that are left out.
    include_mirrored_files: whether to export what mirrors have; None if nobody said.
    """

    no_root_pypi: bool = False
    no_events: bool = False
    root_passwd: str | None = field(default=None, repr=False)
    root_passwd_hash: str | None = field(default=None, repr=False)
    skip_import_type: tuple[str, ...] = ()
    include_mirrored_files: bool | None = None

    @property
    def gives_password(self) -> bool:
        """Whether the user root, where the dump has no password for it, gets one."""
        return self.root_passwd is not None or self.root_passwd_hash is not None

    @property
    def secrets(self) -> dict[str, str]:
        """What devpi-import must not find on its command line, which others can read."""
        given = {"root-passwd": self.root_passwd, "root-passwd-hash": self.root_passwd_hash}
        return {name: value for name, value in given.items() if value}

    def check_followed(self) -> None:
        """Make sure that a standby can be made with these options.

        Raises UsageError.
        """
        has = "with --primary-url it becomes a standby, which has"
        reasons = {
            "--skip-import-type": (self.skip_import_type, f"{has} all indexes of its primary"),
            "--root-passwd": (self.root_passwd, f"{has} the users of its primary"),
            "--root-passwd-hash": (self.root_passwd_hash, f"{has} the users of its primary"),
            "--include-mirrored-files": (
                self.include_mirrored_files,
                "with --primary-url an export carries only the settings of mirrors",
            ),
        }
        for option, (given, why) in reasons.items():
            if given:
                raise UsageError(f"cannot use {option}", why, hint="leave the option out, or --primary-url")


def find_tool(name: str, attempted: str) -> str:
    """Return the path of a command of devpi-server: next to the interpreter, or else on PATH.

    attempted: what cannot be done without it, as in "cannot use --from-export dump".
    Raises UsageError if it is in neither place.
    """
    beside = Path(sys.executable).with_name(name)
    tool = str(beside) if beside.exists() else shutil.which(name)
    if tool is None:
        # Only into a virtual environment: in the system's Python, pip may replace what the system needs.
        installs = sys.prefix != sys.base_prefix and find_spec("pip") is not None
        raise UsageError(
            attempted,
            f"{name} not found (looked next to the interpreter and on PATH)",
            hint=install_hint(sys.executable if installs else None),
        )
    return tool


def install_hint(python: str | None) -> str:
    """Return what to do to have devpi-server's commands.

    python: the interpreter that runs replisync; None if pip cannot, or must not, install there.
    """
    if python is None:
        return f"install {TOOLS_REQUIREMENT} into a virtual environment, and put its commands on PATH"
    command = shlex.join([python, "-m", "pip", "install", TOOLS_REQUIREMENT])
    return f"install devpi-server into the environment of replisync: `{command}`"


def run_tool(
    command: list[str], said: Path, context: Context, secrets: Mapping[str, str] | None = None
) -> str | None:
    """Run a command; return its last words where it failed, else None.

    said: the file for what it says.
    secrets: options that are handed over in a file that only we can read.
    Raises Stopped if we are to stop; then the command is ended.
    """
    config = said.with_suffix(".yml")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
    with local_errors(f"cannot run {command[0]}"), said.open("wb") as log:
        write_file(config, _yaml(secrets or {}))
        process = subprocess.Popen(  # noqa: S603
            [
                *(sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())),
                *(command[0], "-c", str(config.absolute()), *command[1:]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
        )
    try:
        while True:
            try:
                code = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                context.stop.check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        config.unlink(missing_ok=True)
    return _last_words(said) if code else None


def endless_bases(indexes: Mapping[str, Any]) -> list[str]:
    """Return the indexes over which devpi-import would never end.

    It makes an index when its bases are there, and looks again and again at one of which only some are: those
    are in a circle, or behind one. Where all of them are, it ends and says so.
    indexes: as in the index of a dump.
    """
    bases: dict[str, set[str]] = {}
    for name, content in indexes.items():
        config = content.get("indexconfig") if isinstance(content, Mapping) else None
        listed = config.get("bases") if isinstance(config, Mapping) else None
        known = listed if isinstance(listed, list) else ()
        bases[name] = {
            base for base in known if isinstance(base, str) and base in {*indexes, "root/pypi"}
        } - {name}
    # It is made unless devpi-import is told not to, and then nobody's base.
    bases.setdefault("root/pypi", set())
    made: set[str] = set()
    while new := {name for name, its in bases.items() if its <= made} - made:
        made |= new
    return sorted(name for name, its in bases.items() if name not in made and its & made)


def _yaml(options: Mapping[str, str]) -> bytes:
    """Return the content of a configuration file of devpi-server."""

    def quoted(value: str) -> str:
        return "".join(
            letter if letter.isascii() and letter.isalnum() else f"\\U{ord(letter):08x}" for letter in value
        )

    lines = [f'  {name}: "{quoted(value)}"\n' for name, value in options.items()]
    return "".join(["devpi-server:\n", *lines]).encode()


def _last_words(path: Path) -> str:
    text = _COLOUR.sub("", path.read_bytes()[-_WORDS_BYTES:].decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_WORDS_LINES:]
    fatal = [number for number, line in enumerate(lines) if line.startswith("fatal:")]
    return " / ".join(lines[fatal[0] :] if fatal else lines)
