"""What files a target has: their sizes, digests and names, for many of them at once.

Nothing here writes. Files on disk belong to the storage `sqlite`, rows of the table `files` to `pg8000`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from replisync.standby.files.hashing import Looked, look_at_all
from replisync.standby.files.lister import names
from replisync.system.durable import local_errors


class Survey(Protocol):
    """The files of one target; may be used by several threads."""

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


class DiskSurvey:
    """Files below a folder."""

    def __init__(self, files: Path) -> None:
        self._root = os.fspath(files.absolute())

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return what is found of files; pairs of algorithm and relpath.

        The algorithm is "" where no digest is wanted. Those of one folder follow each other.
        """
        named = [(algorithm, os.fsencode(relpath)) for algorithm, relpath in files]
        return look_at_all(os.fsencode(self._root), named)

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in their order; safe beside everything else.

        Raises LocalFailure.
        """
        with local_errors(f"cannot read {self._root}"):
            yield from names(os.fsencode(self._root))

    def changed_at(self, relpath: str) -> float | None:
        """Return when a file was last put in its place or written to, in seconds since the epoch."""
        try:
            found = os.lstat(f"{self._root}/{relpath}")
        except OSError:
            return None
        return max(found.st_ctime, found.st_mtime)
