"""What files a target has: their sizes, digests and names, for many of them at once.

Nothing here writes. Files on disk belong to the storage `sqlite`, rows of the table `files` to `pg8000`.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from replisync.durable import local_errors
from replisync.filestore.hasher import look
from replisync.filestore.hashing import Hashers, Seen, listed, seen
from replisync.filestore.lister import names


class Survey(Protocol):
    """The files of one target; may be used by several threads."""

    def start(self) -> None:
        """Get ready for many files."""
        ...

    def sizes(self, relpaths: Sequence[str]) -> list[Seen]:
        """Return the sizes of files."""
        ...

    def digests(self, files: Sequence[tuple[str, str]]) -> list[Seen]:
        """Return sizes and digests of files; pairs of algorithm and relpath."""
        ...

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in their order; safe beside everything else."""
        ...

    def changed_at(self, relpath: str) -> float | None:
        """Return when a file was last put in its place or written to, in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Let go of what it needs."""
        ...


class DiskSurvey:
    """Files below a folder.

    cores: how many processes compute digests.
    """

    def __init__(self, files: Path, cores: int) -> None:
        self._root = os.fspath(files.absolute())
        self._cores = cores
        self._hashers: Hashers | None = None

    def close(self) -> None:
        """End the processes that compute digests."""
        if self._hashers is not None:
            self._hashers.close()
            self._hashers = None

    def start(self) -> None:
        """Start processes that do the work; without them the thread that asks does it itself."""
        if self._hashers is None:
            self._hashers = Hashers(self._cores)

    def sizes(self, relpaths: Sequence[str]) -> list[Seen]:
        """Return the sizes of files."""
        return [self._size(f"{self._root}/{relpath}") for relpath in relpaths]

    @staticmethod
    def _size(path: str) -> Seen:
        try:
            found = os.lstat(path)
        except OSError as err:
            return Seen(None, problem=err.errno or 0)
        if not stat.S_ISREG(found.st_mode):
            return Seen(None)
        return Seen(found.st_size, None, 0, found.st_mode, None, found.st_uid, found.st_gid)

    def digests(self, files: Sequence[tuple[str, str]]) -> list[Seen]:
        """Return sizes and digests of files; pairs of algorithm and relpath."""
        paths = [(name, f"{self._root}/{relpath}") for name, relpath in files]
        if self._hashers is None:
            return [seen(look(os.fsencode(path), name)) for name, path in paths]
        return self._hashers.digests(paths)

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in their order; safe beside everything else.

        Raises LocalFailure.
        """
        if self._hashers is not None:
            yield from listed(self._root)
            return
        with local_errors(f"reading of {self._root}"):
            yield from names(os.fsencode(self._root))

    def changed_at(self, relpath: str) -> float | None:
        """Return when a file was last put in its place or written to, in seconds since the epoch."""
        try:
            found = os.lstat(f"{self._root}/{relpath}")
        except OSError:
            return None
        return max(found.st_ctime, found.st_mtime)
