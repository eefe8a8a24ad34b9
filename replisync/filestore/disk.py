"""Files on disk, as devpi-server's storage `sqlite` has them: `+files/<relpath>`.

A file appears under its name only when all of it is on disk and its digest was right. What must not
appear before a commit (new content under a name that is in use) waits in the staging folder.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replisync.durable import fsync_folder, local_errors, make_folder
from replisync.errors import WrongContent
from replisync.keys import Digest

# Folders that are remembered as durable.
_FOLDERS_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Received:
    """A file that arrived, durable in the staging folder.

    name: its name there.
    size: in bytes.
    sha256: of its content.
    """

    name: str
    size: int
    sha256: str


class DiskFiles:
    """The files of one target.

    files: the folder of devpi's files.
    staging: a folder on the same file system, for what is not complete.
    retained: a folder on the same file system, for what deltas put aside.
    """

    def __init__(self, files: Path, staging: Path, retained: Path) -> None:
        # As text: paths are made for each file, and pathlib costs as much as the system's calls do.
        self._files = os.fspath(files.absolute())
        self._staging = os.fspath(staging.absolute())
        self._retained = os.fspath(retained.absolute())
        self._mkdir_lock = threading.Lock()
        self._synced: set[str] = set()

    def receive(
        self,
        relpath: str,
        chunks: Iterable[bytes],
        digest: Digest | None,
        length: int | None,
        *,
        durable: bool = True,
    ) -> Received:
        """Write what arrives to the staging folder and check it; durable when this returns.

        length: the bytes that were announced; None where they were not.
        durable: False where it is only on its way to somewhere else.
        Raises WrongContent where length or digest are not right, LocalFailure where it cannot be
        written; then nothing is left.
        """
        name = hashlib.sha256(relpath.encode()).hexdigest()
        path = f"{self._staging}/{name}"
        sha256 = hashlib.sha256()
        other = hashlib.new(digest.algorithm) if digest and digest.algorithm != "sha256" else None
        size = 0
        with local_errors(f"writing of {relpath}"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                sha256.update(chunk)
                if other is not None:
                    other.update(chunk)
                size += len(chunk)
                _write_all(fd, chunk, relpath)
            found = (other or sha256).hexdigest()
            _check(relpath, size, length, found, digest)
            with local_errors(f"writing of {relpath}"):
                if durable:
                    os.fsync(fd)
        except BaseException:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
        os.close(fd)
        return Received(name, size, sha256.hexdigest())

    def hold(self, name: str) -> None:
        """Make a staged file survive a power failure under its name in the staging folder."""
        with local_errors(f"syncing of {self._staging}/{name}"):
            fd = os.open(f"{self._staging}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            fsync_folder(self._staging)

    def place(self, relpath: str, name: str) -> None:
        """Give a staged file its name; durable when this returns. What had the name is replaced."""
        target = f"{self._files}/{relpath}"
        source = f"{self._staging}/{name}"
        folder = os.path.dirname(target)
        with local_errors(f"placing of {relpath}"):
            try:
                os.rename(source, target)
                self._sync_parents(folder)
            except FileNotFoundError:
                # One at a time: a thread that finds a folder made may go on, since the commit waits for
                # the thread that is still making it durable.
                with self._mkdir_lock:
                    make_folder(folder)
                    self._synced.add(folder)
                os.rename(source, target)
            fsync_folder(folder)

    def _sync_parents(self, folder: str) -> None:
        # Who made the folder may have died before its name was durable; one look per folder and process.
        with self._mkdir_lock:
            if len(self._synced) > _FOLDERS_KNOWN:
                self._synced.clear()
            while folder not in self._synced and len(folder) > len(self._files):
                self._synced.add(folder)
                folder = os.path.dirname(folder)
                fsync_folder(folder)

    def sync(self, relpath: str) -> None:
        """Make a file that somebody else put in place durable."""
        with local_errors(f"syncing of {relpath}"):
            fd = os.open(f"{self._files}/{relpath}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            folder = os.path.dirname(f"{self._files}/{relpath}")
            while len(folder) >= len(self._files):
                fsync_folder(folder)
                folder = os.path.dirname(folder)

    def staged(self, name: str) -> bool:
        """Tell whether a staged file is there."""
        return os.path.isfile(f"{self._staging}/{name}")

    def clean_staging(self, keep: Iterable[str]) -> None:
        """Remove what interrupted runs left in the staging folder, but for the names in `keep`."""
        kept = set(keep)
        with local_errors(f"cleaning of {self._staging}"), os.scandir(self._staging) as found:
            for entry in found:
                if entry.name not in kept:
                    os.unlink(entry)

    def size_of(self, relpath: str) -> int | None:
        """Return the size in bytes of a file in place, or None where there is none."""
        with local_errors(f"looking for {relpath}"):
            try:
                return os.stat(f"{self._files}/{relpath}").st_size
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    return None
                raise

    def digest_of(self, relpath: str, algorithm: str) -> str | None:
        """Return the digest of a file in place, or None where there is none."""
        with local_errors(f"reading of {relpath}"):
            try:
                with open(f"{self._files}/{relpath}", "rb") as file:
                    return hashlib.file_digest(file, algorithm).hexdigest()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put_aside(self, relpath: str, serial: int, *, keep: bool = False) -> str | None:
        """Move a file to the retained folder; return its name there, or None where there was none.

        serial: the serial that dropped or replaced it.
        keep: leave it in its place too, for what replaces it to be renamed over it.
        """
        name = f"{serial}-{hashlib.sha256(relpath.encode()).hexdigest()}"
        target = f"{self._files}/{relpath}"
        aside = f"{self._retained}/{name}"
        with local_errors(f"putting aside of {relpath}"):
            try:
                if not keep:
                    os.rename(target, aside)
                elif not os.path.exists(aside):
                    os.link(target, aside)
            except (FileNotFoundError, NotADirectoryError):
                return name if os.path.isfile(aside) else None
            fsync_folder(self._retained)
            fsync_folder(os.path.dirname(target))
        return name

    def remove(self, relpath: str) -> None:
        """Remove a file from its place, durably."""
        target = f"{self._files}/{relpath}"
        with local_errors(f"removing of {relpath}"):
            try:
                os.unlink(target)
            except (FileNotFoundError, NotADirectoryError):
                return
            fsync_folder(os.path.dirname(target))

    def forget_aside(self, names: Iterable[str]) -> None:
        """Remove files from the retained folder."""
        with local_errors(f"cleaning of {self._retained}"):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._retained}/{name}")


def _write_all(fd: int, chunk: bytes, relpath: str) -> None:
    view = memoryview(chunk)
    with local_errors(f"writing of {relpath}"):
        while view:
            view = view[os.write(fd, view) :]


def check_content(relpath: str, data: bytes, length: int | None, digest: Digest | None) -> None:
    """Check what arrived in memory, as `DiskFiles.receive` does.

    Raises WrongContent.
    """
    found = hashlib.new(digest.algorithm if digest else "sha256", data).hexdigest()
    _check(relpath, len(data), length, found, digest)


def _check(relpath: str, size: int, length: int | None, found: str, digest: Digest | None) -> None:
    if length is not None and size != length:
        raise WrongContent(f"fetch of {relpath}", f"{size} bytes came of {length}")
    if digest is not None and found != digest.hexdigest:
        raise WrongContent(
            f"fetch of {relpath}", f"its {digest.algorithm} is {found}, and should be {digest.hexdigest}"
        )
