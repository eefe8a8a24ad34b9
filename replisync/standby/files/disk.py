"""Files on disk, as in devpi-server's storage `sqlite`: `+files/<relpath>`.

A file gets its name only when it is completely on disk and its digest is right. New content under a name that
is in use must not appear before its commit: it waits in the staging folder.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from replisync.changelog.ports import Received
from replisync.devpi.keys import Digest
from replisync.errors import WrongContent
from replisync.standby.files.folders import PIECE_BYTES, OwnFolders
from replisync.standby.files.sync import Syncer, sync_file
from replisync.system.durable import fsync_folder, local_errors
from replisync.system.owners import heir_of, new_file, new_folder

# The number of folders that are remembered as durable.
_FOLDERS_KNOWN = 10_000

# Bytes to copy at a time.
_COPY_BYTES = 1024 * 1024 * 1024


class DiskFiles(OwnFolders):
    """The files of one target.

    files: the folder of devpi's files.
    staging: a folder on the same file system, for incomplete files.
    retained: a folder on the same file system, for retained files.
    sync: makes the syncers of the staging folder and of the files; sync.NoSync if durability is not needed.
    longest: the longest name on the file system, in bytes; None to ask it.
    prefix: of names in the staging folder, so that several users of it have their own.
    """

    def __init__(
        self,
        files: Path,
        staging: Path,
        retained: Path,
        sync: Callable[[str], Syncer] = Syncer,
        longest: int | None = None,
        prefix: str = "",
    ) -> None:
        # As text: paths are built for each file, and pathlib costs as much as the system calls.
        self._files = os.fspath(files.absolute())
        super().__init__(staging, retained)
        self._synced: set[str] = set()
        self._moved_from: set[str] = set()  # folders that files left since the last `sync_moves`
        self._syncer = sync(self._staging)
        self._heir = heir_of(f"{self._staging}/file")
        self._longest = longest
        self._prefix = prefix

    @property
    def group(self) -> int:
        """The most files to sync together: waiting files are on disk."""
        return 128

    def receive(
        self, relpath: str, chunks: Iterable[bytes], digest: Digest | None, length: int | None
    ) -> Received:
        """Write a file to the staging folder and check it; it is not durable before `place` or `hold`.

        length: the announced number of bytes, or None.
        Raises WrongContent if length or digest are wrong, LocalFailure if it cannot be written; nothing
        remains then.
        """
        name = f"{self._prefix}{hashlib.sha256(relpath.encode()).hexdigest()}"
        path = f"{self._staging}/{name}"
        sha256 = hashlib.sha256()
        other = hashlib.new(digest.algorithm) if digest and digest.algorithm != "sha256" else None
        size = 0
        with local_errors(f"cannot write {relpath}"):
            self._syncer.begin()
            fd = self._create(path)
        try:
            for chunk in chunks:
                sha256.update(chunk)
                if other is not None:
                    other.update(chunk)
                size += len(chunk)
                _write_all(fd, chunk, relpath)
            found = (other or sha256).hexdigest()
            _check(relpath, size, length, found, digest)
        except BaseException:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
        with local_errors(f"cannot write {relpath}"):
            os.close(fd)
        return Received(name, size, sha256.hexdigest())

    def take(self, relpath: str, path: str, digest: Digest | None, *, link: bool) -> Received | None:
        """Bring a file of this machine to the staging folder; it is not durable before `place` or `hold`.

        link: as a hard link, if the file system allows it; otherwise as a copy, which shares blocks with the
            file if the file system can.
        Returns None if it cannot be read or has another digest; nothing remains then. Raises LocalFailure if
        it cannot be written.
        """
        source = open_plain(path)
        if source is None:
            return None
        name = f"{self._prefix}{hashlib.sha256(relpath.encode()).hexdigest()}"
        staged = f"{self._staging}/{name}"
        try:
            with local_errors(f"cannot take {relpath} from {path}"):
                self._syncer.begin()
                with suppress(FileNotFoundError):
                    os.unlink(staged)
                linked = link and _link(source, path, staged)
                found = _digests(source, digest) if linked else self._copy(source, staged, digest)
                if found is not None and (digest is None or found[2] == digest.hexdigest):
                    return Received(name, found[0], found[1])
                with suppress(FileNotFoundError):
                    os.unlink(staged)
                return None
        finally:
            os.close(source)

    def _create(self, path: str) -> int:
        """Open a new file for writing; remove an existing one of this name."""
        try:
            return new_file(path, self._heir, 0o666)
        except FileExistsError:
            # Never write into an existing file: it may be a link to another user's file.
            with suppress(FileNotFoundError):
                os.unlink(path)
            return new_file(path, self._heir, 0o666)

    def _copy(self, source: int, target: str, digest: Digest | None) -> tuple[int, str, str] | None:
        """Copy an open file; return the `_digests` of the copy, or None if it cannot be read."""
        copy = new_file(target, self._heir, 0o666, os.O_RDWR)
        try:
            # If possible, the system makes the copy share the file's blocks, or a file server copies it.
            with suppress(OSError):
                while os.copy_file_range(source, copy, _COPY_BYTES):
                    pass
            try:
                while piece := os.read(source, PIECE_BYTES):
                    _write_all(copy, piece, target)
            except OSError:
                return None
            os.lseek(copy, 0, os.SEEK_SET)
            return _digests(copy, digest)
        finally:
            os.close(copy)

    def hold(self, names: Sequence[str]) -> None:
        """Sync staged files under their names in the staging folder."""
        with local_errors(f"cannot sync {self._staging}"):
            self._syncer.contents([f"{self._staging}/{name}" for name in names])
            fsync_folder(self._staging)

    def place(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give staged files their names, durably; replace existing files.

        moves: pairs of a relpath and the name in the staging folder. All contents are synced before the first
            name is given, and then each folder once: a file system writes its journal for many files as fast
            as for one.
        """
        with local_errors(f"cannot write {moves[0][0]}" if len(moves) == 1 else "cannot write files"):
            self._syncer.contents([f"{self._staging}/{name}" for _, name in moves])
        folders: set[str] = set()
        for relpath, name in moves:
            target = f"{self._files}/{relpath}"
            folder = target[: target.rindex("/")]
            with local_errors(f"cannot place {relpath}"):
                try:
                    os.rename(f"{self._staging}/{name}", target)
                except FileNotFoundError:
                    self._make(folder)
                    os.rename(f"{self._staging}/{name}", target)
            folders.add(folder)
        with local_errors("cannot sync the folders of files"):
            self._sync_folders(folders)

    def _make(self, folder: str) -> None:
        """Create a folder and those above it, and note that their names are not durable yet."""
        self._synced.discard(folder)
        try:
            new_folder(folder, self._heir)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make(folder[: folder.rindex("/")])
            with suppress(FileExistsError):
                new_folder(folder, self._heir)

    def _sync_folders(self, folders: set[str]) -> None:
        """Sync folders, and those above them with a name that is not known to be durable."""
        # The creator of a folder may have died before its name was durable: check once per process.
        if len(self._synced) > _FOLDERS_KNOWN:
            self._synced.clear()
        new: set[str] = set()
        names = set(folders)
        for one in folders:
            folder = one
            # Folders above a durable name are durable too.
            while len(folder) > len(self._files) and folder not in self._synced and folder not in new:
                new.add(folder)
                folder = folder[: folder.rindex("/")]
                names.add(folder)
        self._syncer.names(names)
        self._synced |= new

    def sync(self, relpath: str) -> None:
        """Sync a file that another process put in place."""
        with local_errors(f"cannot sync {relpath}"):
            sync_file(f"{self._files}/{relpath}")
            self._sync_folders({os.path.dirname(f"{self._files}/{relpath}")})

    def size_of(self, relpath: str) -> int | None:
        """Return the size in bytes of a file in place, or None."""
        with local_errors(f"cannot look for {relpath}"):
            try:
                found = os.stat(f"{self._files}/{relpath}")
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    return None
                raise
        # Never take a folder, with all of its content, for a file.
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def sizes_of(self, relpaths: Sequence[str]) -> dict[str, int]:
        """Return the sizes in bytes of those of some files that are in place."""
        return {path: size for path in relpaths if (size := self.size_of(path)) is not None}

    def size_problem(self, size: int) -> str:  # noqa: ARG002
        """Return "": a file that is too large for the disk fails with a full disk."""
        return ""

    def obstacle(self, relpath: str) -> str:
        """Return why a file cannot be placed, by its name or by existing files; "" if it can."""
        with local_errors(f"cannot look for {relpath}"):
            if self._longest is None:
                # Shorter than usual if names are encrypted, as with eCryptfs.
                self._longest = os.pathconf(self._staging, "PC_NAME_MAX")
            if max(len(part.encode()) for part in relpath.split("/")) > self._longest:
                return f"the file system takes no name of more than {self._longest} bytes"
            try:
                found = os.stat(f"{self._files}/{relpath}")
            except NotADirectoryError:
                return "another file has the path of its folder"
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                    return ""
                raise
        return "its path is that of a folder with other files" if stat.S_ISDIR(found.st_mode) else ""

    def digest_of(self, relpath: str, algorithm: str) -> str | None:
        """Return the digest of a file in place, or None."""
        with local_errors(f"cannot read {relpath}"):
            try:
                with open(f"{self._files}/{relpath}", "rb") as file:
                    return hashlib.file_digest(file, algorithm).hexdigest()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def retain(self, relpath: str, serial: int, *, keep: bool = False) -> str | None:
        """Move a file to the retained folder; return its name there, or None if there is no such file.

        serial: the serial that dropped or replaced it.
        keep: also leave it in place, to be replaced by a rename. It is then durable at once, otherwise after
            `sync_moves`.
        """
        name = f"{serial}-{hashlib.sha256(relpath.encode()).hexdigest()}"
        target = f"{self._files}/{relpath}"
        aside = f"{self._retained}/{name}"
        with local_errors(f"cannot retain {relpath}"):
            self._syncer.begin()
            try:
                if os.path.isdir(target) and not os.path.islink(target):
                    return None
                if not keep:
                    os.rename(target, aside)
                elif not os.path.exists(aside):
                    self._retain(target, name)
            except (FileNotFoundError, NotADirectoryError):
                return name if os.path.isfile(aside) or os.path.islink(aside) else None
            if keep:
                fsync_folder(self._retained)
            else:
                self._moved_from.add(os.path.dirname(target))
        return name

    def _retain(self, target: str, name: str) -> None:
        try:
            os.link(target, f"{self._retained}/{name}")
        except PermissionError:
            # The system may refuse a link to another owner's file, but not a copy.
            copy = f"{self._staging}/{name}"
            with suppress(FileNotFoundError):
                os.unlink(copy)
            source = open_plain(target)
            if source is None:
                raise
            try:
                if self._copy(source, copy, None) is None:
                    raise
            finally:
                os.close(source)
            self.hold([name])
            os.rename(copy, f"{self._retained}/{name}")

    def correct_size(self, relpath: str) -> None:
        """Do nothing: the file system records the size."""

    def remove(self, relpath: str) -> None:
        """Remove a file from its place; durable after `sync_moves`."""
        target = f"{self._files}/{relpath}"
        with local_errors(f"cannot remove {relpath}"):
            self._syncer.begin()
            try:
                os.unlink(target)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            self._moved_from.add(os.path.dirname(target))

    def sync_moves(self) -> None:
        """Sync retentions and removals, with one sync for many folders."""
        if self._moved_from:
            with local_errors("cannot sync the folders of files"):
                # The new names first: no file may be without a name.
                fsync_folder(self._retained)
                self._syncer.names(self._moved_from)
            self._moved_from.clear()


def open_plain(path: str) -> int | None:
    """Open a regular file for reading; None if it is missing, or something else."""
    try:
        # Non-blocking: it may be a pipe without a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _link(source: int, path: str, target: str) -> bool:
    """Make `target` a link to the open file at `path`; return whether that was possible."""
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:
        # Another file system, another owner, too many links: make a copy instead.
        return False
    if os.path.samestat(os.stat(target), os.fstat(source)):
        return True
    os.unlink(target)
    return False


def _digests(fd: int, digest: Digest | None) -> tuple[int, str, str] | None:
    """Return size, sha256, and the requested digest; None if the file cannot be read."""
    sha256 = hashlib.sha256()
    other = hashlib.new(digest.algorithm) if digest and digest.algorithm != "sha256" else sha256
    size = 0
    try:
        while piece := os.read(fd, PIECE_BYTES):
            size += len(piece)
            sha256.update(piece)
            if other is not sha256:
                other.update(piece)
    except OSError:
        return None
    return size, sha256.hexdigest(), other.hexdigest()


def _write_all(fd: int, chunk: bytes, relpath: str) -> None:
    view = memoryview(chunk)
    with local_errors(f"cannot write {relpath}"):
        while view:
            view = view[os.write(fd, view) :]


def check_content(relpath: str, data: bytes, length: int | None, digest: Digest | None) -> str:
    """Check content in memory, as `DiskFiles.receive` does; return its sha256.

    Raises WrongContent.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    other = digest is not None and digest.algorithm != "sha256"
    found = hashlib.new(digest.algorithm, data).hexdigest() if digest and other else sha256
    _check(relpath, len(data), length, found, digest)
    return sha256


def _check(relpath: str, size: int, length: int | None, found: str, digest: Digest | None) -> None:
    if length is not None and size != length:
        raise WrongContent(f"cannot fetch {relpath}", f"{size} of {length} bytes arrived")
    if digest is not None and found != digest.hexdigest:
        raise WrongContent(
            f"cannot fetch {relpath}", f"its {digest.algorithm} is {found}, but should be {digest.hexdigest}"
        )
