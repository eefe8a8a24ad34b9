"""Read the changelog ahead: one thread reads and decodes entries while another commits earlier ones."""

from collections.abc import Generator, Iterator

from replisync.devpi.entries import ChangelogEntry
from replisync.system.prefetch import Prefetch
from replisync.system.stop import Stop

# How long entries that have arrived wait for more of a slow answer before they are committed.
_LINGER_SECONDS = 0.2

# The most to hold ahead of the commits: bytes of stored entries, and groups of them. One group is always
# admitted, however large its entries are.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_GROUPS = 256


def read_ahead(groups: Iterator[list[ChangelogEntry]], stop: Stop) -> Generator[list[ChangelogEntry]]:
    """Yield the groups while a thread reads and decodes the next ones.

    An empty group means that nothing arrived for a moment. Entries before an error are yielded before it is
    raised.
    Raises Stopped if nothing arrives and we are asked to stop.
    """
    with Prefetch(
        groups, most=_MAX_GROUPS, weight=_size, heaviest=_MAX_BYTES, pause=_LINGER_SECONDS
    ) as ahead:
        items = iter(ahead)
        while True:
            try:
                group = next(items)
            except StopIteration:
                return
            except BaseException:
                yield []
                raise
            yield group or []
            stop.check()


def _size(group: list[ChangelogEntry]) -> int:
    return sum(len(entry.data) for entry in group)
