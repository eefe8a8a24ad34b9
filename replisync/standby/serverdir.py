"""The folder of a target: devpi's files, our own folder, and the writer's lock.

    .nodeinfo  .serverversion  .event_serial    devpi's (`devpi_server/config.py`, `devpi_server/keyfs.py`)
    .sqlite  +files/                            devpi's, with SQLite
    .replisync/                                 ours: lock, tmp/, retained/, storage

Until a clone is complete there is no `.nodeinfo`, so that no devpi-server starts on half a copy.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from replisync.devpi.nodeinfo import _SERVERVERSION
from replisync.devpi.storage import SQLITE, Storage
from replisync.errors import TargetLocked, TargetUnusable, UsageError
from replisync.system.durable import fsync_folder, local_errors, make_folder, write_file
from replisync.system.owners import OURS, give_folder, heir_of, new_file

# devpi's database, with SQLite.
SQLITE_FILE = ".sqlite"

# Pairs of names that some file systems treat as one; a standby would have one file where its primary has two.
_NAMES = (
    ("probe-a", "probe-A", "names that differ in upper and lower case"),
    ("probe-\u00e9", "probe-e\u0301", "names that differ in how Unicode composes letters"),
)

# Characters that SQLite interprets when devpi-server puts a path into a URI (`keyfs_sqlite.py`).
_URI_SIGNS = re.compile("[?#]|%[0-9A-Fa-f]{2}")

# How long to retry a held lock.
_LOCK_SECONDS = 0.4


class Serverdir:
    """One target's folder.

    given: its storage by the command line.
    password: of the database, if the command line has none.
    """

    def __init__(self, root: Path, given: Storage | None = None, *, password: str | None = None) -> None:
        self.root = root
        self.given = given
        self.password = password
        self.own = root / OURS
        self.tmp = self.own / "tmp"
        self.retained = self.own / "retained"
        self.seed = self.own / "seed"
        self.aside = self.own / "aside"
        # Exists while the data of a clone is being removed.
        self.starting_over = self.own / "starting-over"
        self.files = root / "+files"
        self._storage = self.own / "storage"
        self._nodeinfo = root / ".nodeinfo"
        self._event_serial = root / ".event_serial"
        self._serverversion = root / ".serverversion"

    def __str__(self) -> str:
        return str(self.root)

    def prepare(self) -> None:
        """Create the folder, accessible to its owner only, and our folder in it; keep an existing one's mode.

        Raises LocalFailure.
        """
        with local_errors(f"cannot create the serverdir {self.root}"):
            # The owner is not that of a standby above it, which anyone can create in a folder such as /tmp.
            make_folder(self.root.absolute(), 0o700, ours=True)
            self.make_own_folders()
            problem = names_problem(self.tmp)
        if problem:
            raise TargetUnusable(
                f"cannot create the serverdir {self.root}",
                f"its file system does not distinguish {problem}",
                hint="choose a file system that does, such as ext4 or xfs",
            )

    def check_path(self) -> None:
        """Check that a devpi-server would find the database of this folder.

        Raises TargetUnusable.
        """
        if self.storage().name == SQLITE and _URI_SIGNS.search(str(self.root.absolute())):
            raise TargetUnusable(
                f"cannot use the serverdir {self.root}",
                "devpi-server uses its path in a URI, where '?', '#', or '%' with two hex digits leads to "
                "another, empty database",
                hint="move or create it at a path without these characters",
            )

    def make_own_folders(self) -> None:
        """Create our folders that are missing.

        Raises LocalFailure.
        """
        with local_errors(f"cannot create the serverdir {self.root}"):
            for folder in (self.own, self.tmp, self.retained):
                make_folder(folder.absolute())

    def clear_seed(self) -> None:
        """Remove what a clone needs only until it is complete; one that was killed at its end leaves it."""
        shutil.rmtree(self.seed, ignore_errors=True)

    def quarantine(self, path: Path) -> None:
        """Move something that is in the way of ours to a new folder in `.replisync/aside`, durably.

        Raises LocalFailure.
        """
        with local_errors(f"cannot move {path} to {self.aside}"):
            make_folder(self.aside.absolute())
            moment = time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime())
            folder = Path(tempfile.mkdtemp(prefix=moment, dir=self.aside))
            give_folder(folder, heir_of(folder))
            path.rename(folder / path.name)
            for changed in (folder, self.aside, path.parent):
                fsync_folder(changed)

    def is_ours(self) -> bool:
        """Return whether replisync created, or began to create, this serverdir."""
        return bool(self._is(stat.S_ISDIR, self.own))

    def is_open(self) -> bool:
        """Return whether any user of this machine can read its content.

        Raises LocalFailure.
        """
        if not self._is(lambda mode: stat.S_ISDIR(mode) and bool(mode & stat.S_IXOTH), self.root):
            return False
        return self._is(lambda mode: bool(mode & stat.S_IROTH), self.root / SQLITE_FILE) is not False

    def has_database(self) -> bool:
        """Return whether it has a database file of SQLite."""
        return self._is(stat.S_ISREG, self.root / SQLITE_FILE) is not None

    def _is(self, kind: Callable[[int], bool], path: Path) -> bool | None:
        """Return whether a path is of a kind; None if it does not exist."""
        with local_errors(f"cannot look into {self.root}"):
            try:
                return kind(os.stat(path).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def foreign_content(self) -> list[str]:
        """Return the names in the folder that replisync did not create."""
        is_folder = self._is(stat.S_ISDIR, self.root)
        if not is_folder:
            return [] if is_folder is None else [self.root.name]
        with local_errors(f"cannot read {self.root}"):
            return sorted(name for name in os.listdir(self.root) if name not in (OURS, "lost+found"))

    # Its database.

    def remembered_storage(self) -> Storage | None:
        """Return the storage that the clone began with; None if it did not get that far.

        Raises TargetUnusable if the record is damaged.
        """
        written = _text(self._storage)
        if written is None:
            return Storage() if self.has_database() else None
        try:
            return Storage.parse(written.partition("\n")[0])
        except UsageError as err:
            raise TargetUnusable(f"cannot read {self._storage}", "not written by replisync") from err

    def storage(self) -> Storage:
        """Return the storage, with the password that this run was given.

        Raises UsageError if the command line names another kind of storage.
        """
        known = self.remembered_storage() or Storage((self.given or Storage()).name)
        return known.with_more(self.given, self.password)

    def remember_storage(self, uuid: str) -> None:
        """Record the database, without the password: a database does not know its own address.

        uuid: of this target, which identifies a database outside of its folder.
        """
        storage = self.storage()
        if storage.name != SQLITE:
            with local_errors(f"cannot write {self._storage}"):
                write_file(self._storage, f"{storage}\n{uuid}\n".encode())

    def remembered_uuid(self) -> str | None:
        """Return the UUID recorded with the storage, or None."""
        return (_text(self._storage) or "").partition("\n")[2].strip() or None

    # devpi's own small files.

    def nodeinfo(self) -> dict[str, Any] | None:
        """Return the content of `.nodeinfo`, or None.

        Raises TargetUnusable if it is not in devpi's format.
        """
        with local_errors(f"cannot read {self._nodeinfo}"):
            if self._nodeinfo.exists() and not self._nodeinfo.is_file():  # such as a pipe
                raise TargetUnusable(f"cannot read {self._nodeinfo}", "not a file")
            try:
                text = self._nodeinfo.read_bytes()
            except FileNotFoundError:
                return None
        try:
            info = json.loads(text)
        except (ValueError, RecursionError):
            info = None
        if not isinstance(info, dict) or not isinstance(info.get("role"), str):
            raise TargetUnusable(f"cannot read {self._nodeinfo}", "not in the format of devpi-server")
        return info

    def write_nodeinfo(self, info: dict[str, Any]) -> None:
        """Write `.nodeinfo` as devpi-server does, durably and atomically."""
        with local_errors(f"cannot write {self._nodeinfo}"):
            write_file(self._nodeinfo, json.dumps(info, indent=2).encode())

    def write_serverversion(self) -> None:
        """Write the version of devpi's state."""
        with local_errors(f"cannot write {self._serverversion}"):
            write_file(self._serverversion, _SERVERVERSION, 0o644)

    def write_event_serial(self, serial: int) -> None:
        """Record that devpi's events up to `serial` are handled; devpi stores that number plus one."""
        with local_errors(f"cannot write {self._event_serial}"):
            write_file(self._event_serial, str(serial + 1).encode(), 0o644)

    def lower_event_serial(self, serial: int) -> None:
        """Make sure that no events beyond `serial` are recorded as handled."""
        text = _text(self._event_serial)
        if text is not None and not (text.isascii() and text.isdigit() and int(text) <= serial + 1):
            self.write_event_serial(serial)

    def role(self) -> str | None:
        """Return the role in `.nodeinfo`, or None."""
        info = self.nodeinfo()
        return None if info is None else str(info.get("role"))

    # The lock.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only replisync that writes here, until the context or the process ends.

        Raises TargetLocked if another one is.
        """
        path = self.own / "lock"
        with local_errors(f"cannot lock {self.root}"):
            fd = self._open_lock(path)
        try:
            with local_errors(f"cannot lock {self.root}"):
                self._take(fd)
                os.truncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    @staticmethod
    def _open_lock(path: Path) -> int:
        while True:
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            with suppress(FileExistsError):
                return new_file(path, heir_of(path), 0o644, os.O_RDWR)

    def _take(self, fd: int) -> None:
        # A `status` that checks the lock holds it for a moment.
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_SECONDS / 20)
                    continue
                holder = os.read(fd, 100).decode(errors="replace").strip() or "unknown"
                raise TargetLocked(
                    f"cannot lock {self.root}", f"another replisync (process {holder}) writes to it"
                ) from None
            return

    def locked_by(self) -> str | None:
        """Return the process that holds the lock, or None."""
        try:
            fd = os.open(self.own / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(fd, 100).decode(errors="replace").strip()
        finally:
            os.close(fd)
        return None


def _text(path: Path) -> str | None:
    """Return the text of a small file, or None."""
    with local_errors(f"cannot read {path}"):
        try:
            return path.read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None


def names_problem(folder: Path, exists: Callable[[Path], bool] = os.path.lexists) -> str:
    """Return the names that the file system of a folder does not distinguish; "" if it distinguishes all.

    exists: returns whether a file exists.
    Raises OSError.
    """
    for name, other, problem in _NAMES:
        path = folder / name
        path.touch()
        try:
            if exists(folder / other):
                return problem
        finally:
            path.unlink()
    return ""
