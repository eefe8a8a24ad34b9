"""The record of runs, in the store that they work on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from replisync.changelog.records import Divergence
from replisync.errors import ReplisyncError, Stopped, WrongHistory
from replisync.replication.missing import Tally
from replisync.standby.database.store import Store
from replisync.system import clock


@contextmanager
def recorded(store: Store, command: str, tally: Tally) -> Iterator[None]:
    """Record in the store that a command runs, and how it ended.

    tally: its counters.
    """
    number = store.begin_run(command, clock.now())
    started = time.monotonic()

    def end(outcome: str, exit_code: int, error: str | None) -> None:
        store.end_run(
            number,
            finished=clock.now(),
            seconds=round(time.monotonic() - started, 3),
            files=tally.files,
            bytes=tally.bytes,
            local=tally.local,
            outcome=outcome,
            exit_code=exit_code,
            error=error,
        )

    try:
        yield
    except Stopped as err:
        # A failure to record must not hide the error, here and below.
        with suppress(ReplisyncError):
            end("stopped", err.exit_code, None)
        raise
    except BaseException as err:
        with suppress(ReplisyncError):
            if isinstance(err, WrongHistory):
                _record_divergence(store, err)
            end(
                "diverged" if isinstance(err, WrongHistory) else "failed",
                getattr(err, "exit_code", 1),
                str(err) or type(err).__name__,
            )
        raise
    end("ok", 0, None)


def _record_divergence(store: Store, err: WrongHistory) -> None:
    fork = err.details.get("fork_serial")
    known = fork if isinstance(fork, int) else None
    store.put_divergence(Divergence(clock.now(), store.last_serial(), known, err.why))
