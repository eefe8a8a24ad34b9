"""Owners of the files and folders that we create.

Files that root creates in a standby go to the standby's owner: a server that runs as that user must be able
to use, move and remove them. Any other user, and a standby of root, needs nothing of this.
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
    """Return the serverdir of the standby that contains a path (or is it); None if no standby does."""
    folder = os.path.abspath(path)
    while not is_folder(f"{folder}/{OURS}"):
        folder, name = os.path.split(folder)
        if not name:
            return None
    return folder


def is_folder(path: str) -> bool:
    """Return whether a path is a folder, not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def heir_of(path: str | Path) -> Owner | None:
    """Return the owner (uid, gid) for what we create at a path; None if we stay the owner.

    Inside a standby: the owner of its `.replisync`, which in turn gets the owner of the serverdir; never the
    owner of another standby above it.
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
    """Give a file or folder that we have just created, and hold open, to its heir.

    Raises OSError.
    """
    # A replacement by an attacker is not owned by root; some file systems report one owner for all files.
    if heir is not None and os.fstat(made).st_uid == 0:
        os.fchown(made, *heir)


def new_folder(folder: str | Path, heir: Owner | None, mode: int | None = None) -> None:
    """Create a folder for an heir.

    mode: exactly this, ignoring the umask; None for the default.
    Raises OSError, such as FileExistsError.
    """
    os.mkdir(folder, 0o777 if mode is None else mode)
    if heir is None and mode is not None:
        os.chmod(folder, mode)
    give_folder(folder, heir, mode)


def give_folder(folder: str | Path, heir: Owner | None, mode: int | None = None) -> None:
    """Give a folder that we have just created to its heir.

    Raises OSError.
    """
    if heir is None:
        return
    # By descriptor: its heir may have moved something else to this name meanwhile.
    made = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if mode is not None:
            os.fchmod(made, mode)
        give(made, heir)
    finally:
        os.close(made)


@contextmanager
def held(name: str | Path, at: int | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """Hold a file or folder open, so that changes of owner or mode reach no other that gets its name.

    name: a path, below the folder `at` if given; links are not followed.
    Raises OSError, also if it is neither a file nor a folder.
    """
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise OSError(errno.ELOOP, "not a file or folder", os.fspath(name))
    # By name: safe for an ordinary user; root must not do so, and need not.
    if 0 != os.geteuid() == found.st_uid and not found.st_mode & stat.S_IRUSR:
        os.chmod(name, stat.S_IMODE(found.st_mode) | stat.S_IRUSR, dir_fd=at)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=at)
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


def hand_back(fd: int, owner: Owner) -> None:
    """As root, give a file or folder to its owner; skip a file with other hard links: they may be another's.

    Raises OSError.
    """
    found = os.fstat(fd)
    if os.geteuid() == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
        os.fchown(fd, *owner)


def new_file(path: str | Path, heir: Owner | None, mode: int, flags: int = os.O_WRONLY) -> int:
    """Create a file for an heir; return its descriptor.

    mode: less the umask.
    Raises OSError, such as FileExistsError: an existing file or link is never opened.
    """
    made = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        give(made, heir)
    except BaseException:
        os.close(made)
        raise
    return made


def give_all(folder: str | Path, heir: Owner | None) -> None:
    """Give a folder that another program created for us, with its content, to its heir.

    Skip files with other hard links, which may be another server's. Give a folder after its content, so that
    no name is looked up through a folder already given: its owner may be exchanging names.
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
    """Return a user's name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"the user {uid}"
