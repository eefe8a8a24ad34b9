"""Survey of the files of a target in PostgreSQL; see standby.files.survey."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Engine

from replisync.devpi.storage import Storage
from replisync.standby.database.pgconnect import text_array, translated
from replisync.standby.database.pgfiles import SERVER_DIGESTS, row_blocks
from replisync.standby.files.hashing import Looked, Seen

# The number of names to hold at a time.
_PAGE = 10_000

_READABLE = 0o100400


class DatabaseSurvey:
    """Rows of the table `files`.

    engine: connected to the database, each statement in its own transaction.
    """

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self._engine = engine
        self._storage = storage

    def _query(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with translated(self._storage), self._engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query, values)]

    def look_at(self, files: Sequence[tuple[str, str]]) -> Looked:
        """Return the states of files, with the sizes of their contents; see standby.files.survey."""
        found: dict[tuple[str, str], Seen] = {}
        for algorithm in {name for name, _ in files}:
            paths = [path for name, path in files if name == algorithm]
            expression = SERVER_DIGESTS.get(algorithm, "NULL")
            rows = self._query(
                f"SELECT path, octet_length(data), size, {expression} "  # noqa: S608
                "FROM files WHERE path = ANY(%s::text[])",
                text_array(paths),
            )
            for path, size, said, digest in rows:
                if algorithm and algorithm not in SERVER_DIGESTS:
                    digest = self._digest(path, size, algorithm)
                found[algorithm, path] = Seen(size, digest, 0, _READABLE, said)
        return Looked([found.get(file, Seen(None)) for file in files])

    def _digest(self, relpath: str, size: int, algorithm: str) -> str:
        digest = hashlib.new(algorithm)
        with translated(self._storage), self._engine.connect() as connection:
            for block in row_blocks(connection, relpath, size):
                digest.update(block)
        return digest.hexdigest()

    def names(self) -> Iterator[bytes]:
        """Yield the relpaths of all files as bytes, in order; safe with concurrent writers."""
        after = ""
        while True:
            rows = self._query(
                'SELECT path FROM files WHERE path COLLATE "C" > %s ORDER BY path COLLATE "C" LIMIT %s',
                after,
                _PAGE,
            )
            for (path,) in rows:
                yield path.encode()
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def changed_at(self, relpath: str) -> float | None:  # noqa: ARG002
        """Return None: a row has no time of writing."""
        return None
