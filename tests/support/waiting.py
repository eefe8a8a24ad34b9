"""Waiting for something to become true, with a deadline instead of a guess."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.1


def wait_until(condition: Callable[[], T], deadline_seconds: float, what: str) -> T:
    """Return the first truthy result of the condition, or fail when the deadline passes."""
    for is_last in _attempts(deadline_seconds):
        result = condition()
        if result or is_last:
            break
    assert result, f"waited {deadline_seconds:g} s in vain: {what} (last value: {result!r})"
    return result


def wait_until_passes(check: Callable[[], object], deadline_seconds: float) -> None:
    """Repeat a check until it raises no AssertionError, or fail with its last one at the deadline."""
    for is_last in _attempts(deadline_seconds):
        try:
            check()
        except AssertionError:
            if is_last:
                raise
        else:
            return


def _attempts(deadline_seconds: float) -> Iterator[bool]:
    """Yield False at growing intervals, and True once when the deadline has passed."""
    deadline = time.monotonic() + deadline_seconds
    pause = SHORTEST_PAUSE
    while time.monotonic() < deadline:
        yield False
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    yield True
