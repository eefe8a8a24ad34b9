"""Causes of denied access: owner, mode, or a read-only file system."""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from replisync.errors import Advice, Hint
from replisync.system.advice import is_system, quoted
from replisync.system.owners import OURS, standby_of, who

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Denial(NamedTuple):
    """Why access is denied, in one clause, and a hint."""

    why: str
    hint: str | Hint


def denial(err: OSError) -> Denial:
    """Return the cause of an OSError with an errno of DENIED."""
    why = err.strerror or str(err)
    paths = [os.fsdecode(one) for one in (err.filename, err.filename2) if isinstance(one, str | bytes)]
    if err.errno == errno.EROFS:
        mount = next((point for path in paths if (point := read_only(path)) is not None), None)
        return _protected(mount) if mount else Denial(why, "remount the file system read-write")
    known = denial_of(why, *paths)
    if known is not None or not paths:
        return known or Denial(why, "check owner and mode of the serverdir and its content")
    look = f"check its attributes with `lsattr -d {quoted(paths[0])}`"
    return Denial(f"{why} ({paths[0]})", look)


def denial_of(why: str, *paths: str) -> Denial | None:
    """Return why one of some paths is denied; None if neither owner nor mode denies it.

    why: the system's error message.
    """
    for path in map(os.path.abspath, paths):
        mount = read_only(path)
        if mount is not None:
            return _protected(mount)
        found = _obstacle(path)
        if found is not None:
            return _explained(why, found, os.stat(found, follow_symlinks=False))
    return None


def read_only(path: str | Path) -> str | None:
    """Return the mount point of a path's file system if read-only, else None; the path need not exist."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    try:
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            return None
    except OSError:
        return None
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _protected(mount: str) -> Denial:
    why = f"the file system at {mount} is read-only"
    if mount == "/" or is_system(mount):
        return Denial(why, "put the serverdir on a writable file system")
    return Denial(
        why,
        f"find the reason in the kernel's log, then remount it: `mount -o remount,rw {quoted(mount)}`",
    )


def _obstacle(path: str) -> str | None:
    """Return the file or folder that denies us a path, or None."""
    parent = os.path.dirname(path)
    folders: list[str] = []
    while not folders or folders[-1] != "/":
        folders.append(os.path.dirname(folders[-1] if folders else path))
    for folder in reversed(folders):
        if not os.path.lexists(folder):
            return None
        if not _may(folder, os.X_OK):
            return folder
    if os.path.exists(path) and not _may(path, os.R_OK):
        return path
    return next((one for one in (parent, path) if os.path.exists(one) and not _may(one, os.W_OK)), None)


def _may(path: str, bits: int) -> bool:
    return os.access(path, bits, effective_ids=os.access in os.supports_effective_ids)


def _explained(why: str, path: str, found: os.stat_result) -> Denial:
    us, standby = os.geteuid(), standby_of(path)
    foreign = f"{why}: {path} belongs to {who(found.st_uid)}"
    if standby is None:
        if found.st_uid == us:
            return Denial(f"{why}: the mode of {path} is {stat.filemode(found.st_mode)}", "correct its mode")
        return Denial(foreign, f"let {who(us)} use it, or run replisync as {who(found.st_uid)}")
    owner = os.lstat(f"{standby}/{OURS}").st_uid
    if us not in (0, owner):
        return Denial(foreign, f"run replisync as {who(owner)}, the owner of the serverdir")
    repair = Advice("verify", repair=True, serverdir=quoted(standby))
    if found.st_uid != owner:
        return Denial(
            foreign, Hint("run {} as root: it gives the files of the serverdir to {}", repair, who(owner))
        )
    mode = stat.filemode(found.st_mode)
    return Denial(f"{why}: the mode of {path} is {mode}", Hint("run {}: it lets the owner use it", repair))
