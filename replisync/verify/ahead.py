"""Work that several threads do on the next items while what they made of the first ones is looked at."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


def ahead(
    items: Iterable[_A],
    work: Callable[[_A], _B],
    threads: int,
    *,
    weight: Callable[[_A], int] = lambda _: 0,
    most: int = 0,
) -> Generator[tuple[_A, _B]]:
    """Yield each item with what the work makes of it, in order.

    weight, most: no more is begun while items of this weight in all are in hand.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        going: deque[tuple[_A, Future[_B]]] = deque()
        held = 0
        try:
            for item in items:
                going.append((item, pool.submit(work, item)))
                held += weight(item)
                while len(going) > 3 * threads or (held > most and going):
                    first, result = going.popleft()
                    yield first, result.result()
                    held -= weight(first)
            while going:
                first, result = going.popleft()
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)
