"""The files that a history demands, for whoever wants to know before there is a target.

They are kept in a temporary database: memory does not grow with the history or with the number of files.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from replisync.changelog import Batch, WantedFile
from replisync.devpi import Digest, index_of, index_type
from replisync.system import open_temporary, translated

_TABLES = (
    "CREATE TABLE files (relpath TEXT PRIMARY KEY, serial INTEGER, digest TEXT) WITHOUT ROWID",
    "CREATE TABLE indexes (name TEXT PRIMARY KEY, type TEXT) WITHOUT ROWID",
)


class LiveFiles:
    """What is demanded after the batches that were added; also a context manager that forgets it."""

    def __init__(self) -> None:
        self._connection = open_temporary(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def add(self, batch: Batch) -> None:
        """Go on with the batch that follows.

        Raises LocalFailure.
        """
        self.demand(batch.wanted.values())
        with translated():
            gone = ((path,) for path in batch.dropped)
            self._connection.executemany("DELETE FROM files WHERE relpath = ?", gone)
        for path, value in batch.users.items():
            self._put_user(path.partition("/")[0], value)

    def demand(self, files: Iterable[WantedFile]) -> None:
        """Demand files, whatever was demanded under their relpaths before.

        Raises LocalFailure.
        """
        rows = ((file.relpath, file.serial, str(file.digest or "")) for file in files)
        with translated():
            self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    def _put_user(self, user: str, value: Any) -> None:
        indexes = value.get("indexes") if isinstance(value, Mapping) else None
        names = indexes if isinstance(indexes, Mapping) else ()
        rows = [(f"{user}/{name}", index_type(value, f"{user}/{name}")) for name in names]
        with translated():
            # "0" is the character behind "/".
            bounds = (f"{user}/", f"{user}0")
            self._connection.execute("DELETE FROM indexes WHERE name > ? AND name < ?", bounds)
            self._connection.executemany("INSERT OR REPLACE INTO indexes VALUES (?, ?)", rows)
            # That there are none of this user is known too.
            self._connection.execute("INSERT OR REPLACE INTO indexes VALUES (?, NULL)", (user,))

    def index_type(self, index: str) -> tuple[bool, str | None]:
        """Return whether a batch says what type an index has, and return it; None if there is no such index.

        Raises LocalFailure.
        """
        query = "SELECT name, type FROM indexes WHERE name IN (?, ?)"
        with translated():
            found = dict(self._connection.execute(query, (index, index.partition("/")[0])).fetchall())
        return bool(found), found.get(index)

    def groups(self, size: int) -> Iterator[list[WantedFile]]:
        """Yield the demanded files, by relpath, in lists of up to `size` of one index each.

        Raises LocalFailure.
        """
        after = ""
        query = "SELECT relpath, serial, digest FROM files WHERE relpath > ? ORDER BY relpath LIMIT ?"
        while True:
            with translated():
                rows = self._connection.execute(query, (after, size)).fetchall()
            if not rows:
                return
            group: list[WantedFile] = []
            for relpath, serial, digest in rows:
                if group and index_of(relpath) != index_of(after):
                    yield group
                    group = []
                group.append(WantedFile(relpath, serial, Digest.parse(digest)))
                after = relpath
            yield group
