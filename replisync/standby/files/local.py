"""Files that are already on this machine: in old serverdirs, their `+files`, and dumps of devpi-export.

This module only finds candidates. The caller that takes one checks its digest.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from replisync.changelog.plan import WantedFile
from replisync.devpi.keys import Digest, path_problem
from replisync.errors import UsageError
from replisync.system.durable import local_errors

DUMP_INDEX = "dataindex.json"
FILES = "+files"

# In devpi's layout, `user/index/+f/abc/0123456789012/name`, these are the first characters of a digest.
_SPLIT = (3, 16)


class _Folder(Protocol):
    named: Path

    def paths(self, file: WantedFile) -> Iterator[str]: ...
    def is_sure(self, file: WantedFile, path: str) -> bool: ...


class LocalFiles:
    """Folders to search for files before they are requested over the network.

    folders: serverdirs, their `+files`, or dumps.
    own: a `+files` whose files match by relpath alone, so that files without a digest are found too.
    link: whether to take files as hard links, if possible.
    linked: more such folders, which are searched first, and whose files are always taken as links.
    Raises UsageError if a folder cannot be used.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        own: Path | None = None,
        link: bool = False,
        linked: Sequence[Path] = (),
    ) -> None:
        self._link = link
        self._linked = tuple(f"{folder.absolute()}/" for folder in linked)
        self._own = None if own is None else os.fspath(own.absolute())
        self._folders: list[_Folder] = [] if own is None else [_Tree(own, own)]
        self._folders = [
            *(_Tree(folder, folder) for folder in linked),
            *self._folders,
            *map(_opened, folders),
        ]

    def links(self, path: str) -> bool:
        """Return whether to link a file instead of copying it."""
        return self._link or path.startswith(self._linked)

    def paths(self, file: WantedFile) -> Iterator[str]:
        """Yield paths at which a file may lie, the likeliest first."""
        if file.digest is not None:
            for folder in self._folders:
                yield from folder.paths(file)
        elif self._own is not None:
            yield f"{self._own}/{file.relpath}"

    def find(self, file: WantedFile) -> tuple[Path, int] | None:
        """Return the folder that seems to have a file, and its size there, or None.

        A file with the right name is not read: errors in it are found when it is taken.
        """
        if file.digest is None:
            size = None if self._own is None else size_of(f"{self._own}/{file.relpath}")
            return None if size is None else (Path(self._own or ""), size)
        for folder in self._folders:
            for path in folder.paths(file):
                size = size_of(path)
                if size is not None and (folder.is_sure(file, path) or _has(path, file.digest)):
                    return folder.named, size
        return None


def size_of(path: str) -> int | None:
    """Return the size of a regular file, or None."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _has(path: str, digest: Digest) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, digest.algorithm).hexdigest() == digest.hexdigest
    except OSError:
        return False


def _opened(folder: Path) -> _Folder:
    attempted = f"cannot use --replica-file-search-path {folder}"
    if not folder.is_dir():
        raise UsageError(attempted, "not a folder")
    if (folder / DUMP_INDEX).is_file():
        return _Dump(folder)
    return _Tree(folder, folder / FILES if (folder / FILES).is_dir() else folder)


class _Tree:
    """A folder with devpi's layout.

    named: the folder as the operator gave it.
    """

    def __init__(self, named: Path, root: Path) -> None:
        self.named = named
        self._root = os.fspath(root.absolute())
        self._indexes: list[str] | None = None

    def paths(self, file: WantedFile) -> Iterator[str]:
        """Yield the file of the same relpath, then those stored under the same digest."""
        first = f"{self._root}/{file.relpath}"
        yield first
        # A devpi-server that was killed may have left it under a temporary name in the same folder.
        yield from _names(os.path.dirname(first), but=first)
        if file.digest is not None:
            start, end = _SPLIT
            filed = f"+f/{file.digest.hexdigest[:start]}/{file.digest.hexdigest[start:end]}"
            for index in self._all_indexes():
                folder = f"{index}/{filed}"
                if folder != os.path.dirname(first):
                    yield from _names(folder)

    def is_sure(self, file: WantedFile, path: str) -> bool:
        """Return whether a path almost certainly leads to the wanted file."""
        # Tox results are next to the tested file, under names of their own.
        return os.path.basename(path) == os.path.basename(file.relpath)

    def _all_indexes(self) -> list[str]:
        if self._indexes is None:
            self._indexes = [index for user in _names(self._root) for index in _names(user)]
        return self._indexes


def _names(folder: str, but: str = "") -> list[str]:
    """Return the paths in a folder, except one; none if it is missing."""
    try:
        return [path for name in sorted(os.listdir(folder)) if (path := f"{folder}/{name}") != but]
    except OSError:
        return []


class _Dump:
    """A dump of devpi-export: `dataindex.json` names the digest of each file.

    Dumps without digests come from devpi-servers older than the layout that is searched here.
    """

    def __init__(self, root: Path) -> None:
        self.named = root
        self._root = os.fspath(root.absolute())
        self._paths: dict[bytes, str] = {}
        read_dump(root, self._note)

    def paths(self, file: WantedFile) -> Iterator[str]:
        """Yield the file with the digest."""
        found = None if file.digest is None else self._paths.get(_key(file.digest))
        if found is not None:
            yield f"{self._root}/{found}"

    def is_sure(self, file: WantedFile, path: str) -> bool:  # noqa: ARG002
        """Trust the index for the digests of files."""
        return True

    def _note(self, item: dict[str, Any]) -> None:
        relpath, meta = item.get("relpath"), item.get("entrymapping")
        if not isinstance(relpath, str) or not isinstance(meta, dict) or path_problem(relpath):
            return
        hashes = meta.get("hashes")
        specs = [f"{kind}={value}" for kind, value in hashes.items()] if isinstance(hashes, dict) else []
        specs += [str(meta.get("hash_spec")), f"md5={meta.get('md5', '')}"]
        for digest in map(Digest.parse, specs):
            if digest is not None:
                self._paths[_key(digest)] = relpath


def _key(digest: Digest) -> bytes:
    """Return a digest in few bytes: a dump may have millions of files."""
    try:
        return digest.algorithm.encode() + bytes.fromhex(digest.hexdigest)
    except ValueError:
        return str(digest).encode()


def read_dump(root: Path, note: Callable[[dict[str, Any]], None] = lambda _item: None) -> dict[str, Any]:
    """Read the index of a dump; return it without files and versions, of which there may be millions.

    note: called with the index's entry of each file.
    Raises UsageError if it is not the index of a dump.
    """
    path = root / DUMP_INDEX

    def drop(item: dict[str, Any]) -> dict[str, Any] | None:
        if isinstance(item.get("relpath"), str):
            note(item)
            return None
        is_version = isinstance(item.get("name"), str) and "username" not in item
        return None if is_version else item

    with local_errors(f"cannot read {path}"):
        data = path.read_bytes()
    try:
        index = json.loads(data, object_hook=drop)
    except (ValueError, RecursionError) as err:
        raise UsageError(f"cannot read {path}", f"not an index of devpi-export: {err}") from err
    if not isinstance(index, dict) or not isinstance(index.get("indexes"), dict):
        raise UsageError(f"cannot read {path}", "not an index of devpi-export")
    return index
