"""The record of runs, in the store that they work on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from replisync.changelog.records import Divergence
from replisync.errors import ReplisyncError, Stopped, WrongHistory
from replisync.replication.missing import Tally
from replisync.standby.database.store import Store
from replisync.system import clock

# The counters of an active run are recorded at most once in this time, since each record is a commit.
_NOTE_SECONDS = 1.0


class Record:
    """The record of an active run, which `status` reads.

    tally: its counters.
    """

    def __init__(self, store: Store, command: str, tally: Tally) -> None:
        self._store = store
        self._tally = tally
        self._number = store.begin_run(command, clock.now())
        self._started = self._noted_at = time.monotonic()
        self._noted = self._counters()

    def note(self) -> None:
        """Record the counters, if they changed and the last record is not recent."""
        now, counters = time.monotonic(), self._counters()
        if counters != self._noted and now - self._noted_at >= _NOTE_SECONDS:
            self._store.put_run(self._number, **counters)
            self._noted, self._noted_at = counters, now

    def note_error(self, error: str | None) -> None:
        """Record the error that the run is retrying; None if it passed."""
        # The error may be that the database is away.
        with suppress(ReplisyncError):
            self._store.put_run(self._number, error=error, **self._counters())

    def end(self, outcome: str, exit_code: int, error: str | None) -> None:
        """Record how the run ended."""
        self._store.put_run(
            self._number,
            finished=clock.now(),
            seconds=round(time.monotonic() - self._started, 3),
            outcome=outcome,
            exit_code=exit_code,
            error=error,
            **self._counters(),
        )

    def _counters(self) -> dict[str, int]:
        tally = self._tally
        return {"files": tally.files, "bytes": tally.bytes, "local": tally.local}


@contextmanager
def recorded(store: Store, command: str, tally: Tally) -> Iterator[Record]:
    """Record in the store that a command runs, and how it ended.

    tally: its counters.
    """
    record = Record(store, command, tally)
    end = record.end
    try:
        yield record
    except Stopped as err:
        # A failure to record must not hide the error, here and below.
        with suppress(ReplisyncError):
            end("stopped", err.exit_code, None)
        raise
    except BaseException as err:
        with suppress(ReplisyncError):
            if isinstance(err, WrongHistory) and "of_another" not in err.details:
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
