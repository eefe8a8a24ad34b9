"""Files in PostgreSQL, as in devpi-server's storage `pg8000`: rows of the table `files`.

A small file goes from memory into its row. A large file waits in the staging folder until its digest is known
to be right, and goes into its row piece by piece, so that it is never completely in memory. Rows are
committed before the serial that needs them: small ones together, a large one by itself.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from replisync.changelog.ports import Received
from replisync.devpi.keys import Digest
from replisync.devpi.storage import Storage
from replisync.errors import WrongContent
from replisync.standby.database.pgconnect import (
    COPY_BYTES,
    DEVPI_LOCK,
    copy_file,
    copy_in,
    copy_rows,
    literal,
    text_array,
    translated,
)
from replisync.standby.files.disk import DiskFiles, check_content, open_plain
from replisync.standby.files.folders import OwnFolders
from replisync.system.durable import fsync_folder, local_errors, write_file
from replisync.system.owners import heir_of, new_file

# Files smaller than this are kept in memory between their arrival and their row.
_SMALL_BYTES = 128 * 1024

# Bytes to read of a row, or to write of small files, at a time; as text they have twice the size.
_READ_BYTES = 2 * 1024 * 1024

# PostgreSQL's own limit for a value, less the rest of the row.
_MOST_BYTES = 1024**3 - 64 * 1024

# Digests that PostgreSQL computes itself, without sending the content.
SERVER_DIGESTS = {
    "md5": "md5(data)",
    **{name: f"encode({name}(data), 'hex')" for name in ("sha224", "sha256", "sha384", "sha512")},
}

_DELETE = "DELETE FROM files WHERE path = {path}"
_DELETE_ALL = "DELETE FROM files WHERE path = ANY ({paths})"
_COPY = "COPY files (path, size, data) FROM STDIN WITH (FORMAT binary)"


class DatabaseFiles(OwnFolders):
    """The files of one target.

    engine: connected to the database, each statement in its own transaction; a thread holds a connection for
        as long as it needs one.
    staging: a folder for incomplete files.
    retained: a folder on the same file system, for retained files.
    shared: whether a devpi-server of the hot standby may store files meanwhile; then take its lock.
    prefix: of names in the staging folder.
    """

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        staging: Path,
        retained: Path,
        *,
        shared: bool = True,
        prefix: str = "",
    ) -> None:
        self._prefix = prefix
        self._engine = engine
        self._storage = storage
        super().__init__(staging, retained)
        # The folders are only ours: devpi has no file on disk.
        self._disk = DiskFiles(staging, staging, retained, prefix=prefix)
        self._shared = shared
        self._small: dict[str, bytes] = {}

    @property
    def group(self) -> int:
        """The most files to sync together: waiting files are in memory."""
        return 64

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._storage), self._engine.connect() as connection:
            yield connection

    def _begin(self) -> str:
        return f"BEGIN; {DEVPI_LOCK}" if self._shared else "BEGIN"

    def receive(
        self, relpath: str, chunks: Iterable[bytes], digest: Digest | None, length: int | None
    ) -> Received:
        """Receive and check a file; it is not durable before `place` or `hold`.

        Raises WrongContent if length or digest are wrong, LocalFailure if it cannot be stored.
        """
        held: list[bytes] = []
        size = 0
        rest = iter(chunks)
        for chunk in rest:
            held.append(chunk)
            size += len(chunk)
            if size > _SMALL_BYTES:
                return self._disk.receive(relpath, chain(held, rest), digest, length)
        data = b"".join(held)
        sha256 = check_content(relpath, data, length, digest)
        name = f"{self._prefix}{hashlib.sha256(relpath.encode()).hexdigest()}"
        self._small[name] = data
        return Received(name, size, sha256)

    def take(self, relpath: str, path: str, digest: Digest | None, *, link: bool) -> Received | None:  # noqa: ARG002
        """Take a file of this machine; it is not durable before `place` or `hold`.

        link: ignored: a database cannot hold links.
        Returns None if it cannot be read or has another digest; raises LocalFailure if it cannot be stored.
        """
        source = open_plain(path)
        if source is None:
            return None
        with os.fdopen(source, "rb") as file:
            try:
                return self.receive(relpath, iter(lambda: file.read(_READ_BYTES), b""), digest, None)
            except (WrongContent, OSError):
                return None

    def hold(self, names: Sequence[str]) -> None:
        """Sync received files, still without names."""
        for name in names:
            data = self._small.pop(name, None)
            if data is not None:
                path = Path(self._staging, name)
                with local_errors(f"cannot write {path}"):
                    write_file(path, data)
        self._disk.hold(names)

    def place(self, moves: Sequence[tuple[str, str]]) -> None:
        """Make received files the contents of rows, durably; replace existing rows.

        moves: pairs of relpath and name of the received file; small ones become rows together.
        """
        rows: dict[str, str] = {}
        length = 0
        for relpath, name in moves:
            data = self._small.get(name)
            if data is None:
                self._place_big(relpath, name)
                continue
            rows[relpath] = name
            length += len(data)
            if length > _READ_BYTES:
                self._put(rows)
                rows, length = {}, 0
        if rows:
            self._put(rows)

    def _put(self, rows: Mapping[str, str]) -> None:
        """Commit the rows of small files; their names in memory by relpath."""
        pieces = copy_rows(
            (path.encode(), struct.pack("!i", len(self._small[name])), self._small[name])
            for path, name in rows.items()
        )
        paths = literal(text_array(rows))
        with self._reading() as connection:
            connection.exec_driver_sql(f"{self._begin()}; {_DELETE_ALL.format(paths=paths)}")
            copy_in(connection, _COPY, pieces)
            connection.exec_driver_sql("COMMIT")
        for name in rows.values():
            del self._small[name]

    def _place_big(self, relpath: str, name: str) -> None:
        path = f"{self._staging}/{name}"
        with local_errors(f"cannot read {path}"):
            size = os.stat(path).st_size
        with self._reading() as connection:
            connection.exec_driver_sql(f"{self._begin()}; {_DELETE.format(path=literal(relpath))}")
            copy_in(connection, _COPY, copy_file(relpath, size, _blocks(path, size)))
            connection.exec_driver_sql("COMMIT")
        with suppress(FileNotFoundError):
            os.unlink(path)

    def sync(self, relpath: str) -> None:
        """Do nothing: a visible row is durable."""

    def staged(self, name: str) -> bool:
        """Return whether a received file has no name yet."""
        return name in self._small or super().staged(name)

    def discard(self, names: Iterable[str]) -> None:
        """Remove received files that cannot be placed."""
        left = [name for name in names if self._small.pop(name, None) is None]
        super().discard(left)

    def size_of(self, relpath: str) -> int | None:
        """Return the size in bytes of a file in place, or None."""
        found: int | None = self._scalar("size", relpath)
        return found

    def sizes_of(self, relpaths: Sequence[str]) -> dict[str, int]:
        """Return the sizes in bytes of those of some files that are in place."""
        paths = literal(text_array(relpaths))
        query = f"SELECT path, size FROM files WHERE path = ANY ({paths})"  # noqa: S608
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.exec_driver_sql(query)}

    def size_problem(self, size: int) -> str:
        """Return why a file of this size cannot be a row; "" if it can."""
        return f"PostgreSQL holds no file of {size} bytes" if size > _MOST_BYTES else ""

    def obstacle(self, relpath: str) -> str:  # noqa: ARG002
        """Return "": rows cannot collide."""
        return ""

    def digest_of(self, relpath: str, algorithm: str) -> str | None:
        """Return the digest of a file in place, or None."""
        if algorithm in SERVER_DIGESTS:
            found: str | None = self._scalar(SERVER_DIGESTS[algorithm], relpath)
            return found
        size = self.size_of(relpath)
        if size is None:
            return None
        digest = hashlib.new(algorithm)
        for block in self._read(relpath, size):
            digest.update(block)
        return digest.hexdigest()

    def _scalar(self, expression: str, relpath: str) -> Any:
        query = f"SELECT {expression} FROM files WHERE path = {literal(relpath)}"  # noqa: S608
        with self._reading() as connection:
            return connection.exec_driver_sql(query).scalar()

    def _read(self, relpath: str, size: int) -> Iterator[bytes]:
        with self._reading() as connection:
            yield from row_blocks(connection, relpath, size)

    def retain(self, relpath: str, serial: int, *, keep: bool = False) -> str | None:
        """Move a file to the retained folder; return its name there, or None if there is no such file.

        serial: the serial that dropped or replaced it.
        keep: leave its row, to be replaced.
        """
        name = f"{serial}-{hashlib.sha256(relpath.encode()).hexdigest()}"
        aside = f"{self._retained}/{name}"
        size = self.size_of(relpath)
        if size is not None and not os.path.exists(aside):
            self._write_out(relpath, size, aside)
        if size is not None and not keep:
            self.remove(relpath)
        return name if os.path.isfile(aside) else None

    def _write_out(self, relpath: str, size: int, aside: str) -> None:
        temporary = f"{self._staging}/{os.path.basename(aside)}"
        with local_errors(f"cannot retain {relpath}"):
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            with os.fdopen(new_file(temporary, heir_of(temporary), 0o666), "wb") as file:
                for block in self._read(relpath, size):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, aside)
            fsync_folder(self._retained)

    def correct_size(self, relpath: str) -> None:
        """Correct, durably, the size that is recorded with a file's content."""
        update = f"UPDATE files SET size = octet_length(data) WHERE path = {literal(relpath)}"  # noqa: S608
        with self._reading() as connection:
            connection.exec_driver_sql(f"{self._begin()}; {update}; COMMIT")

    def remove(self, relpath: str) -> None:
        """Remove a file from its place, durably."""
        with self._reading() as connection:
            connection.exec_driver_sql(f"{self._begin()}; {_DELETE.format(path=literal(relpath))}; COMMIT")

    def sync_moves(self) -> None:
        """Do nothing: retentions and removals are durable already."""


def row_blocks(connection: Connection, relpath: str, size: int) -> Iterator[bytes]:
    """Yield the content of a file's row, piece by piece."""
    for start in range(1, size + 1, _READ_BYTES):
        piece = f"SELECT substring(data FROM {start} FOR {_READ_BYTES})"  # noqa: S608
        query = f"{piece} FROM files WHERE path = {literal(relpath)}"
        yield bytes(connection.exec_driver_sql(query).scalar() or b"")


def _blocks(path: str, size: int) -> Iterator[bytes]:
    """Yield a file's content, exactly the announced number of bytes."""
    with local_errors(f"cannot read {path}"), open(path, "rb", buffering=0) as file:
        left = size
        while left:
            block = file.read(min(left, COPY_BYTES))
            if not block:
                raise OSError(f"it ended {left} bytes early")
            left -= len(block)
            yield block
