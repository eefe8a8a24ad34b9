"""Files that are wanted: fetched, counted, and asked for again where they could not be had."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from replisync.changelog.plan import Batch, WantedFile
from replisync.changelog.records import Fault
from replisync.devpi.keys import index_of
from replisync.errors import ReplisyncError, Stopped
from replisync.replication.context import Context
from replisync.replication.fetch import Fetched, Fetcher, Outcome, Refused
from replisync.replication.refusals import RETRY_LAST_SECONDS, Judgement, fault_of, judge, missing, wait_after
from replisync.standby.database.store import Store
from replisync.system import clock

# Files that are recorded together.
_CHUNK = 1000


@dataclass(slots=True)
class Tally:
    """What a run did, for the record of runs.

    files, bytes: what was downloaded.
    local: files that were found on this machine instead.
    """

    files: int = 0
    bytes: int = 0
    local: int = 0
    entries: int = 0


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
    tally: where to count what arrives.
    """

    def __init__(
        self, store: Store, fetcher: Fetcher, context: Context, skip_indexes: frozenset[str], tally: Tally
    ) -> None:
        self._store = store
        self._files = fetcher.target
        self._fetcher = fetcher
        self._stop, self._progress = context.stop, context.progress
        self._skip_indexes = skip_indexes
        self._tally = tally
        self._counted: set[str] = set()  # files that arrived, until that is recorded

    def not_skipped(self, files: Iterable[WantedFile]) -> list[WantedFile]:
        """Return those of some files that are to be fetched."""
        return not_skipped(self._store, self._skip_indexes, files)

    def fetch(self, wanted: Iterable[WantedFile]) -> Iterator[Outcome]:
        """Yield what became of each of some files, in the order of their arrival.

        Raises Stopped where not all were asked for.
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
                if isinstance(outcome, Fetched) and outcome.origin == "primary":
                    self._tally.files += 1
                    self._tally.bytes += outcome.size
                elif isinstance(outcome, Fetched) and outcome.origin == "local":
                    self._tally.local += 1
                yield outcome
        except Stopped:
            self._stop.check()  # which knows whether it was a signal
            raise
        if done < asked or not complete:
            self._stop.check()
            raise Stopped("cannot fetch files", "it was asked to end")

    def fetch_all(self) -> None:
        """Fetch the files of the ledger that are not here yet: those of private stages, then of mirrors.

        Raises FilesMissing, after all others were fetched, where a private file could not be had.
        """
        held: list[Fault] = []
        outcomes: list[Outcome] = []
        try:
            for outcome in self.fetch(self._wanted()):
                outcomes.append(outcome)
                if isinstance(outcome, Fetched) and outcome.file.relpath not in self._counted:
                    self._counted.add(outcome.file.relpath)
                    self._progress.advance(1, outcome.size)
                if len(outcomes) >= _CHUNK:
                    held += self._record(outcomes)
                    outcomes = []
        except ReplisyncError:
            # What is known of these must not be found out again.
            with suppress(ReplisyncError):
                self._record(outcomes)
            raise
        held += self._record(outcomes)
        if held:
            raise missing(held)

    def judge(self, refused: Sequence[Refused], batch: Batch | None = None) -> Judgement:
        """Tell what it means that files could not be had; see refusals.judge."""
        return judge(self._store, refused, batch)

    def _wanted(self) -> Iterator[WantedFile]:
        indexes = self._store.wanted_indexes()
        for index in sorted(
            indexes, key=lambda name: (self._store.index_type(name) in (None, "mirror"), name)
        ):
            after = ""
            while files := self._store.wanted_files(index, after, _CHUNK):
                after = files[-1].relpath
                yield from self.to_ask(self.not_skipped(files))[0]

    def to_ask(self, files: list[WantedFile]) -> tuple[list[WantedFile], list[Fault]]:
        """Return those of some files to ask for now, and the faults of the others.

        These were refused before, no serial waits for them, and their time has not come yet. What lies in its
        place by now, however it came there, or elsewhere on this machine, is looked at.
        """
        now, latest = clock.now(), clock.later(RETRY_LAST_SECONDS)
        known = self._store.faults_of(file.relpath for file in files)
        put_off = {
            file.relpath: replace(fault, tries=0)
            for file in files
            if (fault := known.get(file.relpath)) is not None
            and (fault.kind, fault.serial) == ("mirror", file.serial)
            and now < (fault.next_try or now) <= latest
            and self._files.size_of(file.relpath) is None
            and not self._fetcher.finds(file)
        }
        return [file for file in files if file.relpath not in put_off], list(put_off.values())

    def _record(self, outcomes: list[Outcome]) -> list[Fault]:
        """Record what files of the ledger came to, while the next ones arrive; return what holds us back."""
        if not outcomes:
            return []
        present = {o.file.relpath: o.size for o in outcomes if isinstance(o, Fetched)}
        verdict = self.judge([o for o in outcomes if isinstance(o, Refused)])
        self._store.files_arrived(present, verdict.absent, (*verdict.faults, *verdict.held))
        self._counted.difference_update(present)
        # The others that did not arrive are missing still.
        self._progress.advance(len(verdict.absent))
        return verdict.held

    def retry(self, limit: int = _CHUNK) -> None:
        """Ask once more for up to `limit` files that no serial waits for, where their time has come."""
        # A time beyond the longest wait was set by a clock that was wrong.
        faults = self._store.faults_due(clock.now(), clock.later(RETRY_LAST_SECONDS), limit)
        files = [file for path in faults if (file := self._store.wanted_file(path)) is not None]
        files += self._forgotten(limit - len(files))
        outcomes: list[Outcome] = []
        try:
            for outcome in self.fetch(files):
                if isinstance(outcome, Fetched) and outcome.staged is not None:
                    # Its serial is committed, so it may take its place at once.
                    self._files.place([(outcome.file.relpath, outcome.staged)])
                outcomes.append(outcome)
        except ReplisyncError:
            with suppress(ReplisyncError):
                self._record_again(outcomes, faults)
            raise
        self._record_again(outcomes, faults)

    def _record_again(self, outcomes: list[Outcome], faults: Mapping[str, Fault]) -> None:
        """Record what files came to that were asked for again.

        faults: what was known of them.
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
        """Return the fault of a file whose serial is committed: nothing waits for it, whatever is wrong."""
        judged = next((f.kind for f in verdict.faults if f.relpath == refusal.file.relpath), "skipped")
        tries = known.tries if known is not None else 0
        return fault_of(refusal, judged if known is None else known.kind, wait_after(tries))

    def _forgotten(self, limit: int) -> list[WantedFile]:
        """Return up to `limit` files that are neither here, nor among the faults, nor to be skipped."""
        found: list[WantedFile] = []
        after = ""
        while len(found) < limit:
            some = self._store.forgotten_files(after, _CHUNK)
            if not some:
                break
            after = some[-1].relpath
            found += self.not_skipped(some)
        return found[: max(0, limit)]
