"""System commands in hints: safe to paste, also for root."""

import os
import shlex
import stat
from pathlib import Path

# Folders that other programs rely on, with their content.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin"),
    *("/snap", "/sys", "/usr", "/var/backups", "/var/cache", "/var/lib/apt", "/var/lib/dpkg"),
    *("/var/lib/systemd", "/var/lock", "/var/log", "/var/mail", "/var/run", "/var/spool"),
)
# Our documentation creates these.
_OURS = ("/etc/replisync", "/etc/devpi")


def quoted(path: str | Path) -> str:
    """Return a path quoted for a shell: one word, never an option."""
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # Escape control characters, in the form that bash, ksh and zsh read.
    return f"$'{''.join(_written(letter) for letter in text)}'"


def _written(letter: str) -> str:
    if letter.isprintable() and letter not in "'\\":
        return letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def chmod(change: str, path: str | Path, owner: int | None = None) -> str | None:
    """Return a chmod command in backquotes; None if it could harm other users.

    path: of a file or folder; links are followed.
    owner: a user who may own it, besides us.
    """
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError:
        return None
    plain = stat.S_ISREG(found.st_mode) or (stat.S_ISDIR(found.st_mode) and not _is_shared(real, found))
    depth = real.rstrip("/").count("/")
    # Such as /srv and /home, and /var/lib.
    shallow = depth < (3 if _is_within(real, "/var") else 2)
    if not plain or found.st_uid not in (os.geteuid(), owner) or shallow or is_system(real):
        return None
    return f"`chmod {change} {quoted(real)}`"


def _is_shared(folder: str, found: os.stat_result) -> bool:
    return bool(found.st_mode & stat.S_ISVTX) or os.path.ismount(folder)


def is_system(real: str) -> bool:
    """Return whether a path belongs to the system."""
    if any(_is_within(real, folder) for folder in _OURS):
        return False
    return any(_is_within(real, folder) for folder in _SYSTEM)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
