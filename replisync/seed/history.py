"""Histories that lie on this machine, read as a primary's is."""

from collections.abc import Iterator
from contextlib import contextmanager

from replisync.changelog import Changes, Hello
from replisync.devpi import READ_KEYNAMES, ChangelogEntry, parse_stored
from replisync.errors import CorruptEntry
from replisync.seed.snapshot import Rows


class LocalHistory:
    """The changelog of a server, in a copy of its database.

    uuid: the server's.
    """

    disconnected = False

    def __init__(self, rows: Rows, uuid: str) -> None:
        self._rows = rows
        self._hello = Hello(uuid, rows.last_serial(), before_6_13=False)

    @property
    def serial(self) -> int:
        """The last serial."""
        return self._hello.serial

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return whose history it is, and its entry at a serial; None if it does not have one.

        Raises CorruptEntry.
        """
        data = self._rows.row(serial)
        return self._hello, None if data is None else parse_stored(serial, data)

    @contextmanager
    def changes(self, first: int, *, poll: bool) -> Iterator[Changes]:  # noqa: ARG002 - nothing comes later
        """Yield the changes from serial `first` on.

        Raises CorruptEntry, while they are read, where one is missing or damaged.
        """
        yield Changes(self._hello, self._groups(first), new_connection=False)

    def _groups(self, first: int) -> Iterator[list[ChangelogEntry]]:
        due = first
        for group in self._rows.groups(first):
            entries = []
            for serial, data in group:
                if serial != due:
                    raise CorruptEntry("cannot read a changelog", "the entry is missing", serial=due)
                entries.append(parse_stored(serial, data, kinds=READ_KEYNAMES))
                due += 1
            yield entries
