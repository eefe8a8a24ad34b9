"""Our own folders in a serverdir: incomplete files, and those that commits dropped or replaced."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from replisync.system.durable import fsync_folder, local_errors

# Bytes to read at a time.
PIECE_BYTES = 1024 * 1024


class OwnFolders:
    """The folders of one target.

    staging: for incomplete files.
    retained: for retained files, on the same file system.
    """

    def __init__(self, staging: Path, retained: Path) -> None:
        self._staging = os.fspath(staging.absolute())
        self._retained = os.fspath(retained.absolute())

    def staged(self, name: str) -> bool:
        """Return whether a staged file is there."""
        return os.path.isfile(f"{self._staging}/{name}")

    def discard(self, names: Iterable[str]) -> None:
        """Remove staged files that cannot be placed."""
        with local_errors(f"cannot clean {self._staging}"):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._staging}/{name}")

    def clean_staging(self, keep: Iterable[str]) -> None:
        """Remove leftovers of interrupted runs from the staging folder, except for the names in `keep`."""
        kept = set(keep)
        with local_errors(f"cannot clean {self._staging}"), os.scandir(self._staging) as found:
            for entry in found:
                # We create no folders here: leave it for the operator, whom `verify` tells about it.
                if entry.name not in kept and not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry)

    def size_retained(self, name: str) -> int | None:
        """Return the size in bytes of a retained file, or None."""
        with local_errors(f"cannot look for {self._retained}/{name}"):
            try:
                return os.stat(f"{self._retained}/{name}").st_size
            except FileNotFoundError:
                return None

    def read_retained(self, name: str) -> Iterator[bytes]:
        """Yield the content of a retained file.

        Raises LocalFailure.
        """
        path = f"{self._retained}/{name}"
        with local_errors(f"cannot read {path}"), open(path, "rb", buffering=0) as file:
            while block := file.read(PIECE_BYTES):
                yield block

    def rename_retained(self, names: Mapping[str, str]) -> None:
        """Rename retained files, durably; skip those that have the new name already."""
        with local_errors(f"cannot rename files in {self._retained}"):
            for name, new in names.items():
                with suppress(FileNotFoundError):
                    os.rename(f"{self._retained}/{name}", f"{self._retained}/{new}")
            fsync_folder(self._retained)

    def drop_retained(self, names: Iterable[str]) -> None:
        """Remove retained files."""
        with local_errors(f"cannot clean {self._retained}"):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._retained}/{name}")
