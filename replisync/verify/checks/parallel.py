"""Work ahead: threads process the next items while the caller handles earlier results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


def ahead(items: Iterable[_A], work: Callable[[_A], _B], threads: int) -> Generator[tuple[_A, _B]]:
    """Yield each item with the result of the work, in order, working a few items ahead."""
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        going: deque[tuple[_A, Future[_B]]] = deque()
        try:
            for item in items:
                going.append((item, pool.submit(work, item)))
                if len(going) > 3 * threads:
                    first, result = going.popleft()
                    yield first, result.result()
            for first, result in going:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)
