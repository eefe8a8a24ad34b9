"""Being asked to end: by a signal, or by a limit of time, at once while we wait and else when it suits us."""

import os
import signal
import threading
import time

import pytest

from replisync.errors import ConditionFailed, Stopped
from replisync.stop import Stop

LONG_SECONDS = 30.0


def wait_long() -> None:
    """Wait for what does not come."""
    threading.Event().wait(LONG_SECONDS)


def test_a_signal_ends_a_wait_at_once() -> None:
    stop = Stop()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with stop.on_signals(), pytest.raises(Stopped), stop.waiting():
        wait_long()
    assert stop.is_asked()


def test_a_limit_ends_a_wait_at_once() -> None:
    """Also one that nobody interrupts, as for a primary that sends a byte now and then."""
    stop = Stop()
    started = time.monotonic()
    with stop.on_signals():
        stop.limit(0.1)
        with pytest.raises(ConditionFailed, match="--timeout"), stop.waiting():
            wait_long()
    assert time.monotonic() - started < LONG_SECONDS / 2
    assert not stop.is_asked()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_limit_does_not_end_what_is_in_hand() -> None:
    """Work that is no wait is told when it looks."""
    stop = Stop()
    with stop.on_signals():
        stop.limit(0.05)
        assert stop.wait(LONG_SECONDS)
        with pytest.raises(ConditionFailed):
            stop.check()
