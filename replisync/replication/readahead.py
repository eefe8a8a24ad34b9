"""Reading the changelog ahead: one thread reads and decodes what comes while another one commits."""

from collections.abc import Generator, Iterator

from replisync.devpi.entries import ChangelogEntry
from replisync.system.prefetch import Prefetch
from replisync.system.stop import Stop

# How long entries that have arrived wait for more of a slow answer before they are committed.
_LINGER_SECONDS = 0.2

# What is held ahead of the commits at most: bytes of stored entries, and groups of them. One group is
# always let in, however big its entries are.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_GROUPS = 256


def read_ahead(groups: Iterator[list[ChangelogEntry]], stop: Stop) -> Generator[list[ChangelogEntry]]:
    """Yield the groups while a thread reads and decodes the next ones.

    An empty group tells that nothing arrived for a moment. What came before an error is yielded before it
    is raised.
    Raises Stopped where nothing arrives and we are to stop.
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
