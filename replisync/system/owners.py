"""Whose the files and folders are that we make.

What root makes within a standby is the standby's owner's: a server that runs as that user must be able to
use, to move and to remove it. For anyone else, and in a standby of root, nothing is to be done.
"""

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Our folder in a serverdir; its owner is the standby's.
OURS = ".replisync"

Owner = tuple[int, int]


def standby_of(path: str | Path) -> str | None:
    """Return the serverdir of a standby that a path is, or lies in; None where it is in none."""
    folder = os.path.abspath(path)
    while not is_folder(f"{folder}/{OURS}"):
        folder, name = os.path.split(folder)
        if not name:
            return None
    return folder


def is_folder(path: str) -> bool:
    """Tell whether a folder, and no link to one, has this path."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def heir_of(path: str | Path) -> Owner | None:
    """Return to whom we give what we make at a path, as uid and gid; None where it stays ours.

    Within a standby that is the owner of its `.replisync`, which itself is of whose the serverdir is, and
    never the owner of another one above it.
    """
    if os.geteuid() != 0:
        return None
    folder, name = os.path.split(os.path.abspath(path))
    if name == OURS:
        found = os.stat(folder)
    else:
        standby = standby_of(folder)
        if standby is None:
            return None
        found = os.lstat(f"{standby}/{OURS}")
    return None if found.st_uid == 0 else (found.st_uid, found.st_gid)


def give(made: int, heir: Owner | None) -> None:
    """Give a file or folder that we have just made, and hold open, to its heir.

    Raises OSError.
    """
    # What an attacker put in its place is not root's; some file systems name the same owner for all files.
    if heir is not None and os.fstat(made).st_uid == 0:
        os.fchown(made, *heir)


def new_folder(folder: str | Path, heir: Owner | None, mode: int | None = None) -> None:
    """Make a folder for an heir.

    mode: exactly this, whatever the umask; None for the usual one.
    Raises OSError, such as FileExistsError.
    """
    os.mkdir(folder, 0o777 if mode is None else mode)
    if heir is None and mode is not None:
        os.chmod(folder, mode)
    give_folder(folder, heir, mode)


def give_folder(folder: str | Path, heir: Owner | None, mode: int | None = None) -> None:
    """Give a folder that we have just made to its heir.

    Raises OSError.
    """
    if heir is None:
        return
    # Not by its name, which its heir may give to something else meanwhile.
    made = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if mode is not None:
            os.fchmod(made, mode)
        give(made, heir)
    finally:
        os.close(made)


@contextmanager
def held(name: str | Path, at: int | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """Hold a file or folder open, and no other that gets its name, to change its owner or mode.

    name: of what is no link; a path below the folder `at` where that is given.
    Raises OSError, also where it is neither a file nor a folder.
    """
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise OSError(errno.ELOOP, "not a file or folder", os.fspath(name))
    # By its name, which root must not change a mode by, and which root need not do.
    if 0 != os.geteuid() == found.st_uid and not found.st_mode & stat.S_IRUSR:
        os.chmod(name, stat.S_IMODE(found.st_mode) | stat.S_IRUSR, dir_fd=at)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=at)
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


def hand_back(fd: int, owner: Owner) -> None:
    """As root, give a file or folder to its owner; not a file with another name, which may be another's.

    Raises OSError.
    """
    found = os.fstat(fd)
    if os.geteuid() == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
        os.fchown(fd, *owner)


def new_file(path: str | Path, heir: Owner | None, mode: int, flags: int = os.O_WRONLY) -> int:
    """Make a file for an heir; return it, open.

    mode: less the umask.
    Raises OSError, such as FileExistsError: never is what is there opened, which may be a link.
    """
    made = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        give(made, heir)
    except BaseException:
        os.close(made)
        raise
    return made


def give_all(folder: str | Path, heir: Owner | None) -> None:
    """Give a folder that another program made for us, with all that is in it, to its heir.

    A file with another name may be another server's, and stays whose it is. Folders come after what is in
    them, and no name is looked up through one that is given away: its owner may be exchanging names.
    Raises OSError.
    """
    if heir is None:
        return
    for _, _, names, at in os.fwalk(folder, topdown=False, onerror=_raise):
        for name in names:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                os.chown(name, *heir, dir_fd=at, follow_symlinks=False)
        give(at, heir)


def _raise(error: OSError) -> None:
    raise error


def who(uid: int) -> str:
    """Return a user as people name it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"the user {uid}"
