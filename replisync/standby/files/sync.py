"""Make written files durable: one by one, or many at once where the system guarantees that.

One call for the whole file system costs about as much as the sync of one file, so that many files are written
at the speed of the disk. Since Linux 5.8 the call reports failed writes to a process that has held the file
system open since before the write.
"""

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Collection
from typing import Any

from replisync.system.durable import fsync_folder

# The least number of files for that. A few are synced one by one, without waiting for writes of others.
_MANY = 8

# statfs(2): file systems whose syncfs(2) brings all data and names to the disk. Others, such as network or
# user-space file systems, may stop halfway.
_SURE = {0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs"}
_REPORTS_SINCE = (5, 8)
_STATFS_BYTES = 512


class Syncer:
    """Syncs files written below a folder.

    system: the C library; tests pass others.
    """

    def __init__(self, folder: str, system: Any = None) -> None:
        self._folder = folder
        self._system = system or _LIBC
        self._lock = threading.Lock()
        self._begun = False
        self._fd: int | None = None

    def begin(self) -> None:
        """Prepare; call it before writing what is to be synced.

        Raises OSError.
        """
        if not self._begun:
            with self._lock:
                if not self._begun:
                    self._open()
                    self._begun = True

    def _open(self) -> None:
        if self._reports_failures() and self._kind() in _SURE:
            self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._fd)

    def contents(self, paths: Collection[str]) -> None:
        """Sync the contents of files written since `begin`.

        Raises OSError.
        """
        if not self._together(paths):
            for path in paths:
                sync_file(path)

    def names(self, folders: Collection[str]) -> None:
        """Sync the names in folders, upper folders first.

        Raises OSError.
        """
        if not self._together(folders):
            for folder in sorted(folders):
                fsync_folder(folder)

    def tree(self, folder: str) -> None:
        """Sync the contents and the names of all files below a folder.

        Raises OSError.
        """
        if self._all():
            return
        for above, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                sync_file(f"{above}/{name}")
            fsync_folder(above)

    def _together(self, paths: Collection[str]) -> bool:
        return len(paths) >= _MANY and self._all()

    def _all(self) -> bool:
        """Sync the whole file system; return whether that was possible."""
        if self._fd is None:
            return False
        if self._system.syncfs(self._fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self._folder)
        return True

    def _reports_failures(self) -> bool:
        """Return whether this system has a syncfs(2) that reports failed writes."""
        if sys.platform != "linux" or not hasattr(self._system, "syncfs"):
            return False
        release = os.uname().release.replace("-", ".").split(".")
        return tuple(int(part) if part.isdigit() else 0 for part in release[:2]) >= _REPORTS_SINCE

    def _kind(self) -> int:
        """Return the file system's type number of statfs(2); 0 if it has none."""
        found = ctypes.create_string_buffer(_STATFS_BYTES)
        if self._system.statfs(os.fsencode(self._folder), found) != 0:
            return 0
        return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF


class NoSync(Syncer):
    """Syncs nothing: for files that are not needed after a crash."""

    def begin(self) -> None:
        """Do nothing."""

    def contents(self, paths: Collection[str]) -> None:
        """Do nothing."""

    def names(self, folders: Collection[str]) -> None:
        """Do nothing."""


def _raise(err: OSError) -> None:
    raise err


def sync_file(path: str) -> None:
    """Sync the content of a file.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_LIBC = ctypes.CDLL(None, use_errno=True)
