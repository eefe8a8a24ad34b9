"""Rewriting of the primary's entries for a history that began with an export."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from replisync.devpi.entries import ChangelogEntry, KeyChange, parse_stored
from replisync.devpi.keys import USER_KEYNAME, index_of, index_type, user_key
from replisync.devpi.wire import encode

# The kind of a seed whose history differs from the primary's up to its serial.
EXPORT = "export"


# The number of keys whose serials are remembered before committed ones are dropped.
_KNOWN_KEYS = 50_000


def rewritten(serial: int, changes: dict[str, KeyChange], original: bytes | None = None) -> ChangelogEntry:
    """Return an entry with these changes.

    original: the bytes of the primary's own entry, if any.
    """
    data = encode(({relpath: tuple(change) for relpath, change in changes.items()}, []))
    return ChangelogEntry(serial, changes, data, original)


class Known(Protocol):
    """The target's knowledge of keys; see standby.database.store.Store."""

    def last_serial(self) -> int: ...
    def serials_of(self, relpaths: Iterable[str]) -> dict[str, int]: ...
    def value(self, relpath: str) -> Any: ...


class Rewriter:
    """Changes of a primary, rewritten for a target whose earlier history is another.

    The back serial of each change becomes the target's serial of that key, or -1; omit changes of mirrors'
    keys.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    def __call__(self, groups: Iterable[list[ChangelogEntry]]) -> Iterator[list[ChangelogEntry]]:
        """Yield the groups after the target's last serial, rewritten."""
        # The target does not know entries that are not committed yet.
        serials: dict[str, int] = {}
        users: dict[str, Any] = {}
        for group in groups:
            missing = {path for entry in group for path in entry.changes if path not in serials}
            serials |= dict.fromkeys(missing, -1) | self._known.serials_of(missing)
            yield [self._rewrite(entry, serials, users) for entry in group]
            if len(serials) > _KNOWN_KEYS:
                last = self._known.last_serial()
                serials = {path: serial for path, serial in serials.items() if serial > last}

    def _rewrite(
        self, entry: ChangelogEntry, serials: dict[str, int], users: dict[str, Any]
    ) -> ChangelogEntry:
        # Needs its complete value, not only the keys that replication reads.
        changes = parse_stored(entry.serial, entry.data).changes
        before = {path: self._user(path, users) for path in {user_key(path) for path in changes}}
        users |= {path: change.value for path, change in changes.items() if change.keyname == USER_KEYNAME}
        kept: dict[str, KeyChange] = {}
        for path, change in changes.items():
            index = index_of(path)
            values = (before[user_key(path)], users[user_key(path)])
            if change.keyname != USER_KEYNAME and any(index_type(v, index) == "mirror" for v in values):
                continue
            kept[path] = change._replace(back_serial=serials[path])
            serials[path] = entry.serial
        return rewritten(entry.serial, kept, entry.data)

    def _user(self, path: str, users: dict[str, Any]) -> Any:
        if path not in users:
            users[path] = self._known.value(path)
        return users[path]
