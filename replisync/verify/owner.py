"""Access of a serverdir's owner to `+files`, and protection from other users.

This checks modes and owners, not our own access: the superuser may do everything.
"""

import errno
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from replisync.errors import Advice, Hint, NotPermitted
from replisync.standby import Kind, Serverdir
from replisync.system import OURS, hand_back, held, local_errors

# The remedy for files of another owner.
REMEDY = Hint("run {} as root", Advice("verify", repair=True))


class Owner(NamedTuple):
    """The owner of a serverdir.

    groups: all groups of the owner.
    closed: whether `+files` is not world-writable; if it is, its owner, or its file system, makes all files
        so.
    """

    uid: int
    gid: int
    groups: frozenset[int]
    closed: bool

    def may(self, bits: int, mode: int, uid: int, gid: int) -> bool:
        """Return whether a mode and owner grant these bits of access, given as those of an owner."""
        if uid not in (self.uid, -1):
            if self.uid == 0:
                return True
            bits >>= 3 if gid in self.groups else 6
        return mode & bits == bits

    def lacks(self, mode: int, uid: int, gid: int) -> str | None:
        """Return what a file or folder should be, by its mode and owner; None if it is that."""
        folder = stat.S_ISDIR(mode)
        what = "a folder" if folder else "a file"
        if not self.may(stat.S_IRWXU if folder else stat.S_IRUSR, mode, uid, gid):
            return f"{what} that its owner can {'use' if folder else 'read'}"
        if self.closed and mode & stat.S_IWOTH:
            return f"{what} that not everybody may write to"
        return None

    def suits(self, folders: Iterable[Kind]) -> bool:
        """Return whether all of these kinds of folders are right."""
        return all(self.lacks(*kind) is None for kind in folders)


def owner_of(serverdir: Serverdir) -> Owner | None:
    """Return the owner of a serverdir; None if unknown."""
    closed = False
    try:
        own = serverdir.own.stat()
    except OSError:
        return None
    with suppress(OSError):  # files may be in a database
        closed = not serverdir.files.stat().st_mode & stat.S_IWOTH
    groups = {own.st_gid}
    with suppress(KeyError, OSError):
        account = pwd.getpwuid(own.st_uid)
        groups |= {account.pw_gid, *os.getgrouplist(account.pw_name, account.pw_gid)}
    if own.st_uid == os.geteuid():
        groups |= {os.getegid(), *os.getgroups()}
    return Owner(own.st_uid, own.st_gid, frozenset(groups), closed)


class Folders:
    """Yields the folders of files in the order of their paths, each of them once."""

    def __init__(self) -> None:
        self._last = "/"

    def of(self, relpaths: Iterable[str]) -> Iterator[str]:
        """Yield those that do not contain the previous files, innermost first."""
        for relpath in relpaths:
            folder = relpath.rpartition("/")[0]
            last, self._last = self._last, f"{folder}/"
            while folder and not last.startswith(f"{folder}/"):
                yield folder
                folder = folder.rpartition("/")[0]


def give_folders(serverdir: Serverdir) -> None:
    """Let the owner use all folders of files, as far as we may."""
    owner, files = owner_of(serverdir), serverdir.files
    if owner is None:
        return
    left = [""]
    while left:
        folder = left.pop()
        if folder and folder_lacks(owner, files, folder) is not None:
            give(owner, files, folder)
        with suppress(OSError), os.scandir(f"{files}/{folder}") as found:
            inner = (entry.name for entry in found if entry.is_dir(follow_symlinks=False))
            left += [f"{folder}/{name}" if folder else name for name in inner]


def folder_lacks(owner: Owner, files: Path, folder: str) -> tuple[str, str, str | Hint] | None:
    """Return what a folder should be, its mode and owner, and a remedy; None if it is right."""
    try:
        found = os.lstat(f"{files}/{folder}")
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    lacks = owner.lacks(found.st_mode, found.st_uid, found.st_gid)
    if lacks is None:
        return None
    return lacks, shown(found.st_mode, found.st_uid), remedy(owner, found.st_uid)


def shown(mode: int, uid: int) -> str:
    """Return a mode, and an owner if known, in words."""
    return stat.filemode(mode) if uid < 0 else f"{stat.filemode(mode)} of the user {uid}"


def remedy(owner: Owner | None, uid: int) -> str | Hint:
    """Return the remedy if we may not, or must not, change it."""
    return REMEDY if owner is not None and uid not in (-1, owner.uid) else ""


def give(owner: Owner | None, files: Path, relpath: str) -> None:
    """Let the owner, and no other user, write to a file or folder and to the folders that contain it.

    Skip links, and files with other hard links, which may be another user's. A path that we may not change
    stays as it is, and is found again.
    Raises LocalFailure.
    """
    with (
        suppress(NotPermitted),
        local_errors(f"cannot set the mode of {files / relpath}"),
        suppress(FileNotFoundError),
    ):
        at = _open_files(files, owner)
        try:
            for part in relpath.split("/"):
                with held(part, at) as (fd, found):
                    _set_right(fd, found, owner)
                    os.dup2(fd, at, inheritable=False)
        except OSError as err:
            if err.errno != errno.ELOOP:  # a link may lead anywhere
                raise
        finally:
            os.close(at)


def _open_files(files: Path, owner: Owner | None) -> int:
    """Open the folder of files; as root only if it leads to nothing but its owner's files.

    Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0 or owner is None:
        return os.open(files, flags)
    root = os.open(files.parent, flags)
    try:
        own = os.stat(OURS, dir_fd=root, follow_symlinks=False)
        link = stat.S_ISLNK(os.stat(files.name, dir_fd=root, follow_symlinks=False).st_mode)
        at = os.open(files.name, flags | (0 if link else os.O_NOFOLLOW), dir_fd=root)
    finally:
        os.close(root)
    # The serverdir, which was checked by name, may have been exchanged since then.
    if own.st_uid != owner.uid or (link and os.fstat(at).st_uid != owner.uid):
        os.close(at)
        raise PermissionError(errno.EPERM, "it leads out of the standby", os.fspath(files))
    return at


def _set_right(fd: int, found: os.stat_result, owner: Owner | None) -> None:
    if owner is not None:
        hand_back(fd, (owner.uid, owner.gid))
    folder = stat.S_ISDIR(found.st_mode)
    mode = found.st_mode | (stat.S_IRWXU if folder else stat.S_IRUSR | stat.S_IWUSR)
    if owner is not None and owner.closed:
        mode &= ~stat.S_IWOTH
    if mode != found.st_mode:
        os.fchmod(fd, stat.S_IMODE(mode))
