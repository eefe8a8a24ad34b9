"""Reading ahead: one thread reads and decodes what comes while another one commits what came."""

from collections import deque
from collections.abc import Generator, Iterator
from threading import Condition, Thread

from replisync.changelog import ChangelogEntry
from replisync.stop import Stop

# How long entries that have arrived wait for more of a slow answer before they are committed.
_LINGER_SECONDS = 0.2

# What is held ahead of the commits at most: bytes of stored entries, and groups of them. One group is
# always let in, however big its entries are.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_GROUPS = 256

_Item = list[ChangelogEntry] | BaseException | None


class _Buffer:
    """A bounded queue of groups of entries, ended by None or an error."""

    def __init__(self) -> None:
        self._items: deque[tuple[_Item, int]] = deque()
        self._size = 0
        self._changed = Condition()
        self._cancelled = False

    def put(self, item: _Item) -> bool:
        """Wait for room, and append; tell whether the reader is still wanted."""
        size = sum(len(entry.data) for entry in item) if isinstance(item, list) else 0
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or not self._items or self._has_room(size))
            self._items.append((item, size))
            self._size += size
            self._changed.notify_all()
            return not self._cancelled

    def _has_room(self, size: int) -> bool:
        return len(self._items) < _MAX_GROUPS and self._size + size <= _MAX_BYTES

    def get(self, timeout: float) -> _Item:
        """Return the next item; an empty group where none came in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout):
                return []
            item, size = self._items.popleft()
            self._size -= size
            self._changed.notify_all()
            return item

    def cancel(self) -> None:
        """Let the reader go."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()


def read_ahead(groups: Iterator[list[ChangelogEntry]], stop: Stop) -> Generator[list[ChangelogEntry]]:
    """Yield the groups while a thread reads and decodes the next ones.

    An empty group tells that nothing arrived for a moment. What came before an error is yielded before it
    is raised.
    Raises Stopped where nothing arrives and we are to stop.
    """
    buffer = _Buffer()

    def read() -> None:
        try:
            for group in groups:
                if not buffer.put(group):
                    return
            buffer.put(None)
        except BaseException as err:  # noqa: BLE001 - handed over to the caller's thread
            buffer.put(err)

    reader = Thread(target=read, name="changelog", daemon=True)
    reader.start()
    try:
        while True:
            item = buffer.get(_LINGER_SECONDS)
            if item is None:
                return
            if isinstance(item, BaseException):
                yield []
                raise item
            yield item
            stop.check()
    finally:
        buffer.cancel()
        # A reader that hangs on a silent primary is left to end with the connection, or the process.
        reader.join(timeout=1)
