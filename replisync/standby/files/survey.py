"""Survey of a target's files: sizes, digests and names, for many of them at once.

Nothing here writes. The storage `sqlite` has files on disk, `pg8000` has rows of the table `files`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from replisync.standby.files.hashing import Looked, look_at_all
from replisync.standby.files.lister import names
from replisync.system.durable import local_errors


class Survey(Protocol):
    """The files of one target; safe to share between threads."""

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return the states of files, given as pairs of algorithm and relpath.

        The algorithm is "" for no digest. Files of one folder must be adjacent.
        """
        ...

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in order; safe with concurrent writers."""
        ...

    def changed_at(self, relpath: str) -> float | None:
        """Return when a file was last placed or written, in seconds since the epoch."""
        ...


class DiskSurvey:
    """Files below a folder."""

    def __init__(self, files: Path) -> None:
        self._root = os.fspath(files.absolute())

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return the states of files, given as pairs of algorithm and relpath.

        The algorithm is "" for no digest. Files of one folder must be adjacent.
        """
        named = [(algorithm, os.fsencode(relpath)) for algorithm, relpath in files]
        return look_at_all(os.fsencode(self._root), named)

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in order; safe with concurrent writers.

        Raises LocalFailure.
        """
        with local_errors(f"cannot read {self._root}"):
            yield from names(os.fsencode(self._root))

    def changed_at(self, relpath: str) -> float | None:
        """Return when a file was last placed or written, in seconds since the epoch."""
        try:
            found = os.lstat(f"{self._root}/{relpath}")
        except OSError:
            return None
        return max(found.st_ctime, found.st_mtime)
