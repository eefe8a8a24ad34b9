"""The history of an import, moved to the serials of the server that was exported.

devpi-import begins a history of its own, with serials from 0 on. To go on with the changes of the exported
server it is shifted, so that it ends at the serial of the export: its serials and back serials are raised,
and empty entries stand before it. Where there is not room enough its first entries become one.

Keys of mirrors are left out, here and in all changes that come later: what an import knows of a mirror is
not what its server knew, and devpi would never mend the difference. A promoted server asks upstream afresh.

devpi-import gives the empty password to users who have none in the dump (devpi_server/importexport.py). Here
it is taken away: only a plugin can log these users in, as on the exported server.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from replisync.changelog import Changes, Hello, rewritten
from replisync.devpi import (
    EMPTY_ENTRY,
    USER_KEYNAME,
    ChangelogEntry,
    KeyChange,
    index_of,
    index_type,
    parse_stored,
    user_name,
    without_password,
)
from replisync.seed.snapshot import Rows

_GROUP = 1000


class RebasedImport:
    """The history of an import, as it is to be in the target.

    uuid: of the exported server.
    serial: its serial when it was exported, at which the history is to end; None leaves the serials as
        they are.
    with_password: the users who keep the password that the import gave them.
    mirrors: whether keys of mirrors are carried too.
    """

    disconnected = False

    def __init__(
        self, rows: Rows, uuid: str, serial: int | None, with_password: Collection[str], *, mirrors: bool
    ) -> None:
        self._rows = rows
        self._without_password = users_without_password(rows, with_password)
        last = rows.last_serial()
        self._offset = 0 if serial is None else serial - last
        self._hello = Hello(uuid, last + self._offset, before_6_13=False)
        self._mirrors = frozenset() if mirrors else frozenset(self._find_mirrors())

    def _find_mirrors(self) -> Iterator[str]:
        # An import deletes no index, and changes the type of none: latest values tell it all.
        for relpath in self._rows.keys(USER_KEYNAME):
            user = self._rows.value(relpath)
            if isinstance(user, Mapping):
                indexes = (f"{relpath.partition('/')[0]}/{name}" for name in user.get("indexes", ()))
                yield from (name for name in indexes if index_type(user, name) == "mirror")

    def _all(self, first: int) -> Iterator[tuple[int, bytes]]:
        for group in self._rows.groups(first):
            yield from group

    @property
    def serial(self) -> int:
        """The last serial."""
        return self._hello.serial

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return whose history it is, and its entry at a serial; None if it does not have one."""
        if serial > self.serial:
            return self._hello, None
        return self._hello, next(self._entries(serial))

    @contextmanager
    def changes(self, first: int, *, poll: bool) -> Iterator[Changes]:  # noqa: ARG002 - nothing comes later
        """Yield the entries from serial `first` on."""
        yield Changes(self._hello, _grouped(self._entries(first)), new_connection=False)

    def _entries(self, first: int) -> Iterator[ChangelogEntry]:
        for serial in range(first, min(self._offset, self.serial + 1)):
            yield ChangelogEntry(serial, {}, EMPTY_ENTRY)
        merged = max(0, -self._offset)  # the import's last serial that goes into the first entry
        rows = self._all(0 if first == 0 else max(0, first - self._offset))
        if first == 0 and merged:
            changes: dict[str, KeyChange] = {}
            for serial, data in rows:
                changes.update(self._shifted(serial, data))
                if serial == merged:
                    break
            yield rewritten(0, changes)
        for serial, data in rows:
            yield rewritten(serial + self._offset, self._shifted(serial, data))

    def _shifted(self, serial: int, data: bytes) -> dict[str, KeyChange]:
        return {
            relpath: change._replace(
                back_serial=self._new_serial(serial, change.back_serial), value=self._value(relpath, change)
            )
            for relpath, change in parse_stored(serial, data).changes.items()
            if index_of(relpath) not in self._mirrors
        }

    def _value(self, relpath: str, change: KeyChange) -> Any:
        if change.keyname == USER_KEYNAME and user_name(relpath) in self._without_password:
            return without_password(change.value)
        return change.value

    def _new_serial(self, serial: int, back_serial: int) -> int:
        # Within the first entry nothing comes before.
        if back_serial < 0 or serial + self._offset <= 0:
            return -1
        return max(0, back_serial + self._offset)


def users_without_password(rows: Rows, with_password: Collection[str]) -> frozenset[str]:
    """Return the users of an import who are to have no password; see RebasedImport."""
    return frozenset(map(user_name, rows.keys(USER_KEYNAME))) - frozenset(with_password)


def _grouped(entries: Iterable[ChangelogEntry]) -> Iterator[list[ChangelogEntry]]:
    group: list[ChangelogEntry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry.data)
        if len(group) >= _GROUP or size >= 1024 * 1024:
            yield group
            group, size = [], 0
    if group:
        yield group
