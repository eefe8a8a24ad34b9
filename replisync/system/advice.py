"""Commands that a message tells to run: safe as they stand, also where root runs them."""

import os
import shlex
import stat
from pathlib import Path

# What others than us rely on as it is, with all that is in it.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin"),
    *("/snap", "/sys", "/usr", "/var/backups", "/var/cache", "/var/lib/apt", "/var/lib/dpkg"),
    *("/var/lib/systemd", "/var/lock", "/var/log", "/var/mail", "/var/run", "/var/spool"),
)
# What our documentation makes there.
_OURS = ("/etc/replisync", "/etc/devpi")


def quoted(path: str | Path) -> str:
    """Return a path as a shell takes it: whole, whatever is in it, and never as an option."""
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # What a terminal would obey is written out, in the form that bash, ksh and zsh read.
    return f"$'{''.join(_written(letter) for letter in text)}'"


def _written(letter: str) -> str:
    if letter.isprintable() and letter not in "'\\":
        return letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def chmod(change: str, path: str | Path, owner: int | None = None) -> str | None:
    """Return the command that changes a mode, in backquotes; None where it could harm others.

    path: of a file or folder; where it is a link, what it leads to is meant.
    owner: whose it may be beside ours.
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
    """Tell whether something belongs to the system, by its path alone."""
    if any(_is_within(real, folder) for folder in _OURS):
        return False
    return any(_is_within(real, folder) for folder in _SYSTEM)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
