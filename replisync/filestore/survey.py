"""What files a target has: their sizes, digests and names, for many of them at once.

Nothing here writes. Files on disk belong to the storage `sqlite`, rows of the table `files` to `pg8000`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from replisync.durable import local_errors
from replisync.filestore.hasher import look_at_all
from replisync.filestore.hashing import Looked, ask, hashers, listed, looked
from replisync.filestore.lister import names
from replisync.workers import Workers


class Survey(Protocol):
    """The files of one target; may be used by several threads."""

    def start(self) -> None:
        """Get ready for many files."""
        ...

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return what is found of files; pairs of algorithm and relpath.

        The algorithm is "" where no digest is wanted. Those of one folder follow each other.
        """
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

    cores: how many processes look at files.
    """

    def __init__(self, files: Path, cores: int) -> None:
        self._root = os.fspath(files.absolute())
        self._cores = cores
        self._hashers: Workers | None = None

    def close(self) -> None:
        """End the processes that look at files."""
        if self._hashers is not None:
            self._hashers.close()
            self._hashers = None

    def start(self) -> None:
        """Start processes that do the work; without them the thread that asks does it itself."""
        if self._hashers is None:
            self._hashers = hashers(self._root, self._cores)

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return what is found of files; pairs of algorithm and relpath.

        The algorithm is "" where no digest is wanted. Those of one folder follow each other.
        Raises LocalFailure.
        """
        # No file has a name with a NUL, and what is behind it would be taken for another one's.
        files = [(name, "" if "\0" in relpath else relpath) for name, relpath in files]
        if self._hashers is not None:
            return ask(self._hashers, files)
        named = [(name.encode(), os.fsencode(relpath)) for name, relpath in files]
        return looked(look_at_all(os.fsencode(self._root), named), len(files))

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
