"""Ending on request: signals, or a limit of time, set a flag that long work looks at between batches.

While we merely wait for the primary, a signal ends the wait at once.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from replisync.errors import ConditionFailed, Stopped

# How often the limit is called out once it has passed, until somebody listens.
_RING_SECONDS = 0.2


class Stop:
    """The flag, and the two signals that set it.

    A second signal ends the process as if we had no handler.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waiting = False
        self._handling = False
        self._deadline: float | None = None

    def limit(self, seconds: float) -> None:
        """Ask to stop in so many seconds."""
        self._deadline = time.monotonic() + seconds
        if self._handling:
            # Else a primary that sends a byte now and then would hold us for as long as it likes.
            signal.setitimer(signal.ITIMER_REAL, seconds, _RING_SECONDS)

    def left(self) -> float | None:
        """Return the seconds until the limit; None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def is_set(self) -> bool:
        """Tell whether to stop."""
        return self._event.is_set() or self.left() == 0

    def is_asked(self) -> bool:
        """Tell whether a signal asked to stop."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told to stop, or for so many seconds; tell whether to stop."""
        bounds = [bound for bound in (timeout, self.left()) if bound is not None]
        self._event.wait(min(bounds, default=None))
        return self.is_set()

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise Stopped where a signal asked us to stop, ConditionFailed where the limit has passed."""
        if self._event.is_set():
            raise Stopped("cannot finish the run", "a signal asked to end it")
        if self.left() == 0:
            raise ConditionFailed(
                "cannot finish the run", "its --timeout passed", hint="run it again: it resumes"
            )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal, or the limit, raise in here, in the main thread: nothing is in hand."""
        self.check()
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT, and the alarm of the limit, until the context ends."""

        def handle(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.set()
            if self._waiting:
                self.check()

        def ring(_number: int, _frame: FrameType | None) -> None:
            if self._waiting:
                self.check()

        handlers = {signal.SIGTERM: handle, signal.SIGINT: handle, signal.SIGALRM: ring}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._handling = True
        try:
            yield
        finally:
            self._handling = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
