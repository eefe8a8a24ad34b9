"""devpi's own commands, run as they are: an export is made, and imported, by nobody else."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from replisync.durable import local_errors
from replisync.errors import UsageError
from replisync.standby import Context

EXPORT_TOOL = "devpi-export"
IMPORT_TOOL = "devpi-import"

_LOOK_SECONDS = 0.2

# The last words of a command that are repeated where it fails, in bytes and lines.
_WORDS_BYTES = 4096
_WORDS_LINES = 6
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def find_tool(name: str, attempted: str) -> str:
    """Return where a command of devpi-server is: beside the interpreter, or on PATH.

    Raises UsageError where it is not.
    """
    beside = Path(sys.executable).with_name(name)
    tool = str(beside) if beside.exists() else shutil.which(name)
    if tool is None:
        raise UsageError(
            attempted,
            f"there is no {name}, neither beside the interpreter nor on PATH",
            hint="install replisync[seed], or devpi-server",
        )
    return tool


def run_tool(command: list[str], said: Path, context: Context) -> str | None:
    """Run a command; return its last words where it failed, else None.

    said: the file for what it says.
    Raises Stopped where we are to stop; then the command is ended.
    """
    with local_errors(f"running of {command[0]}"), said.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
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
    return _last_words(said) if code else None


def _last_words(path: Path) -> str:
    text = _COLOUR.sub("", path.read_bytes()[-_WORDS_BYTES:].decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_WORDS_LINES:]
    fatal = [number for number, line in enumerate(lines) if line.startswith("fatal:")]
    return " / ".join(lines[fatal[0] :] if fatal else lines)
