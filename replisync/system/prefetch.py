"""Prefetch: a thread reads items while another works on the previous ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")

# A thread that hangs in its source, such as a silent primary, ends with its connection or the process.
_JOIN_SECONDS = 1.0


class Prefetch(Generic[_T]):
    """Items that a thread reads ahead while the context lasts.

    items: read by the thread; an exception of theirs is raised after the last item.
    most: the most items held.
    weight, heaviest: the weight of an item, and the most weight held; one item is always admitted.
    pause: seconds without an item after which None is yielded; None to wait.
    """

    def __init__(
        self,
        items: Iterable[_T],
        *,
        most: int,
        weight: Callable[[_T], int] = lambda _: 0,
        heaviest: int = 0,
        pause: float | None = None,
    ) -> None:
        self._items = items
        self._most, self._weight, self._heaviest, self._pause = most, weight, heaviest, pause
        self._held: deque[tuple[_T, int]] = deque()
        self._weighs = 0
        self._end: BaseException | None = (
            None  # the exception that ended the items; StopIteration for a normal end
        )
        self._cancelled = False
        self._changed = Condition()
        self._thread = Thread(target=self._read, name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def __iter__(self) -> Iterator[_T | None]:
        """Yield the items, and None after each pause without one; raise the exception that reading raised."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._end, self._pause)
                item, weight = self._held.popleft() if self._held else (None, 0)
                if item is None and self._end is not None:
                    break
                self._weighs -= weight
                self._changed.notify_all()
            yield item
        if not isinstance(self._end, StopIteration):
            raise self._end

    def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as err:  # noqa: BLE001 - raised again in the thread that takes the items
            end = err
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _put(self, item: _T) -> bool:
        """Wait for room and hold an item; return False once cancelled."""
        weight = self._weight(item)
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or not self._held or self._has_room(weight))
            self._held.append((item, weight))
            self._weighs += weight
            self._changed.notify_all()
            return not self._cancelled

    def _has_room(self, weight: int) -> bool:
        return len(self._held) < self._most and self._weighs + weight <= self._heaviest
