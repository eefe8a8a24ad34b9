"""Being asked to end: by a signal, or by a limit of time, at once while we wait and else when it suits us."""

import os
import signal
import threading
from pathlib import Path

import pytest

from replisync.errors import ConditionFailed, Stopped
from replisync.replication.missing import Tally
from replisync.session.runs import recorded
from replisync.standby.database.sqlite import SqliteStore
from replisync.system.stop import Stop
from tests.fakes import FailingStore, Trap, failure

LONG_SECONDS = 30.0


def wait_long() -> None:
    """Wait for what does not come; fail where the wait was not interrupted."""
    threading.Event().wait(LONG_SECONDS)
    pytest.fail("the wait came to its end")


def test_a_signal_ends_a_wait_at_once() -> None:
    stop = Stop()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with stop.on_signals(), pytest.raises(Stopped), stop.waiting():
        wait_long()
    assert stop.is_asked()


def test_a_limit_ends_a_wait_at_once() -> None:
    """Also one that nobody interrupts, as for a primary that sends a byte now and then."""
    stop = Stop()
    with stop.on_signals():
        stop.limit(0.1)
        with pytest.raises(ConditionFailed, match="--timeout"), stop.waiting():
            wait_long()
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


def test_that_a_run_was_stopped_is_known_although_it_cannot_be_written_down(tmp_path: Path) -> None:
    """As where the database is what has gone away: `follow` ends with 0 all the same."""
    path = tmp_path / ".sqlite"
    with SqliteStore(path, write=True, create=True) as store:
        store.prepare()
    trap = Trap(("store.in_the_transaction", 1), error=failure)
    with (
        FailingStore(path, write=True, trap=trap) as failing,
        pytest.raises(Stopped),
        recorded(failing, "follow", Tally()),
    ):
        raise Stopped("the run", "a signal asked to end it")
    assert trap.sprung
