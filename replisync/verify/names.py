"""The names of all files, read by a thread while others compute digests."""

from collections.abc import Iterable, Iterator
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Self

# Names that are handed over at a time, and how often that is done before somebody has to take some: what is
# held is bounded, however many files there are.
_PAGE = 2000
_PAGES = 100

_LOOK_SECONDS = 0.2


class Names:
    """Names that are read ahead; a context manager that ends the thread.

    names: read by the thread.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        self._names = iter(names)
        self._pages: Queue[list[bytes] | BaseException] = Queue(_PAGES)
        self._enough = Event()
        self._thread = Thread(target=self._read, name="names", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the names; raises what reading them raised."""
        while True:
            try:
                page = self._pages.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if isinstance(page, BaseException):
                raise page
            if not page:
                return
            yield from page

    def _read(self) -> None:
        try:
            while page := list(islice(self._names, _PAGE)):
                if not self._put(page):
                    return
            self._put([])
        except BaseException as err:  # noqa: BLE001 - handed over to whoever asks for the names
            self._put(err)

    def _put(self, page: list[bytes] | BaseException) -> bool:
        """Hand a page over; tell whether anybody wants more."""
        while not self._enough.is_set():
            try:
                self._pages.put(page, timeout=_LOOK_SECONDS)
            except Full:
                continue
            return True
        return False
