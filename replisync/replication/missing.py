"""Wanted files: fetch, count, and retry them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from replisync.changelog.plan import Batch, WantedFile
from replisync.changelog.records import HELD, MIRROR, Fault
from replisync.devpi.keys import index_of
from replisync.errors import ReplisyncError, Stopped
from replisync.replication.context import Context
from replisync.replication.fetch import Fetched, Fetcher, Outcome, Refused
from replisync.replication.refusals import RETRY_LAST_SECONDS, Judgement, fault_of, judge, missing, wait_after
from replisync.standby.database.store import Store
from replisync.system import clock

# The number of files that are recorded together.
_CHUNK = 1000


@dataclass(slots=True)
class Tally:
    """The counters of a run, for its record.

    files, bytes: downloaded.
    local: files that were taken from this machine instead.
    """

    files: int = 0
    bytes: int = 0
    local: int = 0
    entries: int = 0

    def count(self, outcome: Outcome) -> None:
        """Count a file that arrived."""
        if isinstance(outcome, Fetched) and outcome.origin == "primary":
            self.files += 1
            self.bytes += outcome.size
        elif isinstance(outcome, Fetched) and outcome.origin == "local":
            self.local += 1


def not_skipped(store: Store, skip_indexes: frozenset[str], files: Iterable[WantedFile]) -> list[WantedFile]:
    """Return those of some files that are not of an index whose files are left where they are.

    skip_indexes: names or types of such indexes; `all` for every one.
    """
    if not skip_indexes:
        return list(files)
    skipped: dict[str, bool] = {}
    kept = []
    for file in files:
        index = index_of(file.relpath)
        if index not in skipped:
            names = {"all", index, store.index_type(index)}
            skipped[index] = not skip_indexes.isdisjoint(names)
        if not skipped[index]:
            kept.append(file)
    return kept


class Wanted:
    """The files that one target needs.

    skip_indexes: see `not_skipped`.
    tally: the counters to use.
    """

    def __init__(
        self, store: Store, fetcher: Fetcher, context: Context, skip_indexes: frozenset[str], tally: Tally
    ) -> None:
        self._store = store
        self._files = fetcher.target
        self._fetcher = fetcher
        self._stop, self._progress = context.stop, context.progress
        self._skip_indexes = skip_indexes
        self.tally = tally
        self._counted: set[str] = set()  # files that arrived, until they are recorded

    def not_skipped(self, files: Iterable[WantedFile]) -> list[WantedFile]:
        """Return those of some files that are to be fetched."""
        return not_skipped(self._store, self._skip_indexes, files)

    def fetch(self, wanted: Iterable[WantedFile]) -> Iterator[Outcome]:
        """Yield the outcome of each file, in the order of arrival.

        Raises Stopped if not all were requested.
        """
        asked = done = 0
        complete = False

        def asking() -> Iterator[WantedFile]:
            nonlocal asked, complete
            for file in wanted:
                asked += 1
                yield file
            complete = True

        try:
            for outcome in self._fetcher.fetch(asking()):
                done += 1
                self.tally.count(outcome)
                yield outcome
        except Stopped:
            self._stop.check()  # raises Stopped if it was a signal
            raise
        if done < asked or not complete:
            self._stop.check()
            raise Stopped("cannot fetch files", "asked to stop")

    def fetch_all(self) -> None:
        """Fetch the missing files of the ledger: those of private stages, then of mirrors.

        Raises FilesMissing, after all others were fetched, if a private file is missing.
        """
        held: list[Fault] = []
        outcomes: list[Outcome] = []
        try:
            for outcome in self.fetch(self._wanted(held)):
                outcomes.append(outcome)
                if isinstance(outcome, Fetched) and outcome.file.relpath not in self._counted:
                    self._counted.add(outcome.file.relpath)
                    self._progress.advance(1, outcome.size)
                if len(outcomes) >= _CHUNK:
                    held += self._record(outcomes)
                    outcomes = []
        except ReplisyncError:
            # Do not try these again.
            with suppress(ReplisyncError):
                self._record(outcomes)
            raise
        held += self._record(outcomes)
        if held:
            raise missing(held)

    def judge(self, refused: Sequence[Refused], batch: Batch | None = None) -> Judgement:
        """Decide about files that could not be fetched; see refusals.judge."""
        return judge(self._store, refused, batch)

    def _wanted(self, held: list[Fault]) -> Iterator[WantedFile]:
        """Yield the missing files to request.

        held: receives the faults of those that a serial waits for, but that are not due.
        """
        indexes = self._store.wanted_indexes()
        for index in sorted(
            indexes, key=lambda name: (self._store.index_type(name) in (None, "mirror"), name)
        ):
            after = ""
            while files := self._store.wanted_files(index, after, _CHUNK):
                after = files[-1].relpath
                asked, put_off = self.to_ask(self.not_skipped(files))
                held += [fault for fault in put_off if fault.kind == HELD]
                yield from asked

    def to_ask(self, files: list[WantedFile]) -> tuple[list[WantedFile], list[Fault]]:
        """Return those of some files to request now, and the faults of the others.

        The others were refused before, and are not due. A file that is in its place by now, or elsewhere on
        this machine, is taken anyway.
        """
        now, latest = clock.now(), clock.later(RETRY_LAST_SECONDS)
        known = self._store.faults_of(file.relpath for file in files)
        put_off = {
            file.relpath: replace(fault, tries=0)
            for file in files
            if (fault := known.get(file.relpath)) is not None
            and fault.kind in (MIRROR, HELD)
            and fault.serial == file.serial
            and now < (fault.next_try or now) <= latest
            and self._files.size_of(file.relpath) is None
            and not self._fetcher.finds(file)
        }
        return [file for file in files if file.relpath not in put_off], list(put_off.values())

    def _record(self, outcomes: list[Outcome]) -> list[Fault]:
        """Record the outcomes of files of the ledger as they arrive; return the files that hold us back."""
        if not outcomes:
            return []
        present = {o.file.relpath: o.size for o in outcomes if isinstance(o, Fetched)}
        verdict = self.judge([o for o in outcomes if isinstance(o, Refused)])
        self._store.files_arrived(present, verdict.absent, (*verdict.faults, *verdict.held))
        self._counted.difference_update(present)
        # Other files that did not arrive are still missing.
        self._progress.advance(len(verdict.absent))
        return verdict.held

    def retry(self, limit: int = _CHUNK) -> None:
        """Retry up to `limit` files for which no serial waits, and that are due."""
        files, faults = self.due(limit)
        outcomes: list[Outcome] = []
        try:
            for outcome in self.fetch(files):
                if isinstance(outcome, Fetched) and outcome.staged is not None:
                    # Its serial is committed, so it may take its place at once.
                    self._files.place([(outcome.file.relpath, outcome.staged)])
                outcomes.append(outcome)
        except ReplisyncError:
            with suppress(ReplisyncError):
                self.record_again(outcomes, faults)
            raise
        self.record_again(outcomes, faults)

    def due(self, limit: int) -> tuple[list[WantedFile], dict[str, Fault]]:
        """Return up to `limit` files for which no serial waits, and that are due; and their faults so far."""
        # A time beyond the longest wait was set by a wrong clock.
        faults = self._store.faults_due(clock.now(), clock.later(RETRY_LAST_SECONDS), limit)
        files = [file for path in faults if (file := self._store.wanted_file(path)) is not None]
        return files + self._forgotten(limit - len(files)), faults

    def record_again(self, outcomes: list[Outcome], faults: Mapping[str, Fault]) -> None:
        """Record the outcomes of retried files.

        faults: their faults so far.
        """
        if not outcomes:
            return
        present = {o.file.relpath: o.size for o in outcomes if isinstance(o, Fetched)}
        refused = [o for o in outcomes if isinstance(o, Refused)]
        verdict = self.judge(refused)
        again = [
            self._again(refusal, faults.get(refusal.file.relpath), verdict)
            for refusal in refused
            if refusal.file.relpath not in verdict.absent
        ]
        self._store.files_arrived(present, verdict.absent, tuple(again))

    def _again(self, refusal: Refused, known: Fault | None, verdict: Judgement) -> Fault:
        """Return the fault of a file whose serial is committed, and so does not wait for it."""
        judged = next((f.kind for f in verdict.faults if f.relpath == refusal.file.relpath), "skipped")
        tries = known.tries if known is not None else 0
        return fault_of(refusal, judged if known is None else known.kind, wait_after(tries))

    def _forgotten(self, limit: int) -> list[WantedFile]:
        """Return up to `limit` files that are missing, not among the faults, and not of skipped indexes."""
        found: list[WantedFile] = []
        after = ""
        while len(found) < limit:
            some = self._store.forgotten_files(after, _CHUNK)
            if not some:
                break
            after = some[-1].relpath
            found += self.not_skipped(some)
        return found[: max(0, limit)]
