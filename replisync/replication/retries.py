"""Retries of files while the loop goes on: a change never waits for an upstream that does not answer."""

import threading

from replisync.changelog.plan import WantedFile
from replisync.changelog.ports import Log
from replisync.changelog.records import Fault
from replisync.replication.fetch import Fetched, Fetcher, Outcome
from replisync.replication.missing import Wanted
from replisync.standby.database.store import Store


class Retries:
    """One round of retries at a time, whose files a thread fetches.

    The thread only fills the staging folder. The caller's thread gives files their names, if they are still
    wanted, and records the outcomes.

    fetcher: gives no file its name; its staging names are not those of the loop.
    """

    def __init__(self, wanted: Wanted, fetcher: Fetcher, store: Store, log: Log) -> None:
        self._wanted = wanted
        self._fetcher = fetcher
        self._store = store
        self._log = log
        self._round: _Round | None = None

    def begin(self, limit: int) -> None:
        """Begin to fetch up to `limit` files that are due, unless a round is under way."""
        self.collect()
        if self._round is not None:
            return
        files, faults = self._wanted.due(limit)
        if files:
            self._log.info("retrying files", files=len(files))
            self._round = _Round(self._fetcher, files, faults)

    def collect(self) -> None:
        """Record the outcomes of a round that has ended.

        Raises the error that ended it, once its outcomes are recorded.
        """
        done = self._round
        if done is None or done.thread.is_alive():
            return
        self._round = None
        outcomes = [one for one in done.outcomes if self._is_wanted(one)]
        arrived = [one for one in outcomes if isinstance(one, Fetched) and one.staged is not None]
        self._fetcher.discard(one for one in done.outcomes if one not in outcomes)
        if arrived:
            self._fetcher.target.place([(one.file.relpath, one.staged or "") for one in arrived])
        for one in outcomes:
            self._wanted.tally.count(one)
        self._wanted.record_again(outcomes, done.faults)
        if done.error is not None:
            raise done.error

    def _is_wanted(self, outcome: Outcome) -> bool:
        """Return whether a file is still wanted as it was when the round began."""
        return self._store.wanted_file(outcome.file.relpath) == outcome.file


class _Round:
    """Files that a thread fetches, with their faults so far."""

    def __init__(self, fetcher: Fetcher, files: list[WantedFile], faults: dict[str, Fault]) -> None:
        self.faults = faults
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None
        self._fetcher = fetcher
        self._files = files
        self.thread = threading.Thread(target=self._run, name="retries", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcomes.extend(self._fetcher.fetch(self._files))
        except BaseException as err:  # noqa: BLE001 - handed over to the caller's thread
            self.error = err
