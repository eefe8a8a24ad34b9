"""The loop: entries from the primary, files before serials, one commit per batch.

A step reads the position from the target, asks the primary for what follows, and applies it in batches.
After any error the next step begins from the target again: nothing is carried over in memory. Each step
can be repeated at any point without doing anything twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Protocol

from replisync import clock
from replisync.ahead import read_ahead
from replisync.changelog import ChangelogEntry
from replisync.divergence import Comparison
from replisync.errors import (
    BrokenStream,
    FilesMissing,
    ForeignWriter,
    LocalFailure,
    ReplisyncError,
    Stopped,
    WrongHistory,
)
from replisync.fetch import Fetched, Fetcher, Outcome, Refused
from replisync.keys import index_of, index_type, user_key
from replisync.origin import Hello
from replisync.plan import Batch, BatchLimits, WantedFile, batches
from replisync.ports import FileStore, Log, Progress
from replisync.primary import Changes
from replisync.settle import set_apart, settle
from replisync.stop import Stop
from replisync.store.base import Store
from replisync.store.records import Commit, Fault

# Files of a clone that are recorded together.
_CLONE_CHUNK = 1000

# A mirror's file that could not be had is asked for again after an hour, then half a day, then daily.
_RETRY_FIRST_SECONDS = 3600
_RETRY_LAST_SECONDS = 86400

# What may pass, such as a silent upstream or a wrong digest, holds a serial for so many tries.
_MIRROR_TRIES = 2


Rewrite = Callable[[Iterable[list[ChangelogEntry]]], Iterable[list[ChangelogEntry]]]


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


class History(Protocol):
    """A changelog to follow: a primary's, or one that lies on this machine."""

    @property
    def disconnected(self) -> bool:
        """Whether the next answer comes over another connection than the last one."""
        ...

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return whose it is, and its entry at a serial; None where it does not have one."""
        ...

    def changes(self, first: int, *, poll: bool) -> AbstractContextManager[Changes]:
        """Return what comes from a serial on."""
        ...


@dataclass(slots=True)
class Judgement:
    """What the refused files of a batch mean."""

    absent: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    held: list[Fault] = field(default_factory=list)


class Pipeline:
    """One target that follows one primary.

    retain: whether what deltas drop is kept in the retained folder.
    tally: where to count what is done; one that begins with zero where it is None.
    rewrite: makes of the primary's entries those that are stored, where they are not the same.
    """

    def __init__(
        self,
        primary: History,
        store: Store,
        files: FileStore,
        fetcher: Fetcher,
        *,
        stop: Stop,
        log: Log,
        progress: Progress,
        limits: BatchLimits | None = None,
        skip_indexes: frozenset[str] = frozenset(),
        retain: bool = True,
        tally: Tally | None = None,
        rewrite: Rewrite | None = None,
    ) -> None:
        self._primary = primary
        self._store = store
        self._files = files
        self._fetcher = fetcher
        self._stop = stop
        self._log = log
        self._progress = progress
        self._limits = limits or BatchLimits()
        self._skip_indexes = skip_indexes
        self._retain = retain
        # After any error somebody else may answer, even over the same connection to a proxy.
        self._doubtful = True
        self._left_at: int | None = None  # the serial after our last step; None where that is not known
        self._reached = -1  # the serial after our last commit
        self._rewrite = rewrite or (lambda groups: groups)
        self.tally = tally or Tally()

    # Who is there.

    def check_identity(self) -> Hello:
        """Make sure that the primary's history is the one that we follow; return who answered.

        Raises WrongHistory where its serial is below ours or its last entries up to ours are others.
        """
        source, serial = self._store.source(), self._store.last_serial()
        comparison = Comparison(
            self._store.primary_entry,
            self._entry,
            # Where entries are made anew it is known of the last one alone what the primary's own was.
            first=0 if source is None or source.based_on < 0 else max(serial, 0),
            complete=source is not None and source.seed_finished is not None,
        )
        hello = comparison.check(serial)
        self._store.put_agreement(hello.serial, clock.now())
        self._doubtful = False
        return hello

    def _entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        with self._stop.waiting():
            return self._primary.entry(serial)

    def recover(self) -> None:
        """Finish what an interrupted run left: moves that its commits demand, files that never arrived."""
        settle(self._store, self._files, retain=self._retain)
        set_apart(self._store, self._files)
        self._files.clean_staging(())

    # Entries.

    def step(self, *, poll: bool, last: int | None = None, metadata_only: bool = False) -> int:
        """Apply what the primary has beyond our serial; return the serial that the primary had.

        poll: wait up to 30 seconds for a change where there is none.
        last: apply nothing beyond this serial.
        metadata_only: leave files that are wanted for later, which is right in a clone that is not complete
            alone.
        Raises Stopped between two batches where we were asked to stop.
        """
        settle(self._store, self._files, retain=self._retain)
        position = self._store.last_serial()
        try:
            return self._step(position, poll=poll, last=last, metadata_only=metadata_only)
        except LocalFailure as err:
            err.serial = self._reached + 1 if err.serial is None else err.serial
            raise

    def _step(self, position: int, *, poll: bool, last: int | None, metadata_only: bool) -> int:
        self._check_alone(position)
        # Both are known again when the step has ended well: an error may come before or after a commit.
        self._left_at, doubtful, self._doubtful = None, self._doubtful, True
        self._reached = position
        if doubtful or self._primary.disconnected:
            # Now, and not when a change has arrived and everybody waits for it.
            self.check_identity()
            self._doubtful = True
        with ExitStack() as stack:
            try:
                with self._stop.waiting():
                    changes = stack.enter_context(self._primary.changes(position + 1, poll=poll))
            except WrongHistory:
                self.check_identity()  # which finds out more
                raise
            if changes.new_connection:
                self.check_identity()
                self._doubtful = True
            total = min(changes.hello.serial, changes.hello.serial if last is None else last) - position
            if total > 0 and not metadata_only:
                self._progress.stage("changes", total, "serials")
            try:
                self._apply_all(changes.groups, changes.hello.serial, last, metadata_only)
            except BaseException:
                # Whoever promotes now must know how far the primary was.
                with suppress(ReplisyncError):
                    self._store.put_contact(changes.hello.serial, clock.now())
                raise
        if self._reached == position and position < min(changes.hello.serial, last or changes.hello.serial):
            raise BrokenStream(
                "reading of the primary's changelog", "the answer ended before its first entry"
            )
        self._left_at = self._reached
        self._check_alone(self._store.last_serial())
        if self._reached == position:
            self._store.put_contact(changes.hello.serial, clock.now())
        self._doubtful = False
        return changes.hello.serial

    def _check_alone(self, position: int) -> None:
        """Make sure that the target is where we left it.

        Raises ForeignWriter.
        """
        if self._left_at is not None and position != self._left_at:
            raise ForeignWriter(
                "following", f"the target is at serial {position}, where we left it at {self._left_at}"
            )

    def _apply_all(
        self,
        groups: Iterator[list[ChangelogEntry]],
        primary_serial: int,
        last: int | None,
        metadata_only: bool,
    ) -> None:
        entries = read_ahead(groups, self._stop)
        with closing(entries):
            for batch in batches(self._rewrite(until(entries, last)), self._limits):
                self._apply(batch, primary_serial, metadata_only=metadata_only)

    def _apply(self, batch: Batch, primary_serial: int, *, metadata_only: bool) -> None:
        """Commit a batch; where a serial of it must wait for a file, commit those before it."""
        self._stop.check()
        try:
            commit = self._without_files(batch) if metadata_only else self._with_files(batch)
        except FilesMissing as err:
            good = batch.before(err.serial or batch.first)
            if good is not None:
                self._apply(good, primary_serial, metadata_only=False)
            raise
        if self._store.apply(commit, primary_serial, clock.now()):
            settle(self._store, self._files, retain=self._retain)
        self._reached = batch.last
        self.tally.entries += len(batch.entries)
        self._progress.advance(len(batch.entries), batch.size)
        self._log.debug("committed", serial=batch.last, entries=len(batch.entries))

    # Files.

    def _without_files(self, batch: Batch) -> Commit:
        """Return what may be committed where no devpi-server reads yet: wanted files stay wanted."""
        return Commit(batch, leaving=self._in_place(batch.dropped))

    def _in_place(self, relpaths: Iterable[str]) -> frozenset[str]:
        return frozenset(path for path in relpaths if self._files.size_of(path) is not None)

    def _with_files(self, batch: Batch) -> Commit:
        """Bring the files that the batch demands; return what may now be committed.

        Raises FilesMissing where a file is missing that the serial must wait for.
        """
        wanted = self.not_skipped(batch.wanted.values())
        if wanted:
            # Durable before the first of them has a place: whoever looks meanwhile must know of them.
            self._store.expect({file.relpath: file.serial for file in wanted})
        present: dict[str, int] = {}
        staged: dict[str, str] = {}
        refused: list[Refused] = []
        for outcome in self._fetch(wanted):
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            present[outcome.file.relpath] = outcome.size
            if outcome.staged is not None:
                staged[outcome.file.relpath] = outcome.staged
        verdict = self.judge(refused, batch)
        if verdict.held:
            self._store.put_faults(tuple(verdict.held))
            raise missing(verdict.held)
        without = [*batch.dropped, *(path for path in batch.wanted if path not in present)]
        return Commit(batch, present, staged, self._in_place(without), verdict.absent, tuple(verdict.faults))

    def _fetch(self, wanted: Iterable[WantedFile]) -> Iterator[Outcome]:
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
                    self.tally.files += 1
                    self.tally.bytes += outcome.size
                elif isinstance(outcome, Fetched) and outcome.origin == "local":
                    self.tally.local += 1
                yield outcome
        except Stopped:
            self._stop.check()  # which knows whether it was a signal
            raise
        if done < asked or not complete:
            self._stop.check()
            raise Stopped("fetching of files", "it was asked to end")

    def not_skipped(self, files: Iterable[WantedFile]) -> list[WantedFile]:
        """Return those of some files that are not of an index whose files are left where they are."""
        if not self._skip_indexes:
            return list(files)
        skipped: dict[str, bool] = {}
        kept = []
        for file in files:
            index = index_of(file.relpath)
            if index not in skipped:
                names = {"all", index, self._store.index_type(index)}
                skipped[index] = not self._skip_indexes.isdisjoint(names)
            if not skipped[index]:
                kept.append(file)
        return kept

    def judge(self, refused: Sequence[Refused], batch: Batch | None = None) -> Judgement:
        """Tell what it means that files could not be had.

        batch: what is about to be committed; its values of users count before those that are stored.
        """
        verdict = Judgement()
        known = self._store.faults_of(refusal.file.relpath for refusal in refused)
        for refusal in refused:
            self._judge_one(refusal, verdict, batch, known.get(refusal.file.relpath))
        return verdict

    def _judge_one(
        self, refusal: Refused, verdict: Judgement, batch: Batch | None, known: Fault | None
    ) -> None:
        file, status = refusal.file, refusal.status
        kind = self._type_of(index_of(file.relpath), batch)
        if status == 410:
            verdict.absent[file.relpath] = "the primary deleted it later"
        elif kind is None and status == 404:
            verdict.absent[file.relpath] = "its index is gone"
        elif kind == "mirror" and 300 <= status < 400:
            verdict.absent[file.relpath] = "clients are sent to its external URL"
        elif status == 0:
            verdict.faults.append(self._fault(refusal, "unfetchable"))
        elif known is not None and known.kind == "skipped":
            verdict.faults.append(self._fault(refusal, "skipped"))
        elif kind == "mirror" and (
            status in (404, 502) or (known is not None and known.tries >= _MIRROR_TRIES)
        ):
            verdict.faults.append(self._fault(refusal, "mirror", _RETRY_FIRST_SECONDS))
        else:
            verdict.held.append(self._fault(refusal, "held"))

    def _type_of(self, index: str, batch: Batch | None) -> str | None:
        user = user_key(index)
        if batch is not None and user in batch.users:
            return index_type(batch.users[user], index)
        return self._store.index_type(index)

    @staticmethod
    def _fault(refusal: Refused, kind: str, retry_in: float | None = None) -> Fault:
        file = refusal.file
        next_try = None if retry_in is None else clock.later(retry_in)
        return Fault(file.relpath, file.serial, kind, refusal.reason, 1, next_try)

    def fetch_wanted(self) -> None:
        """Fetch the files of the ledger that are not here yet: those of private stages, then of mirrors.

        Raises FilesMissing, after all others were fetched, where a private file could not be had.
        """
        held: list[Fault] = []
        outcomes: list[Outcome] = []
        for outcome in self._fetch(self._wanted()):
            outcomes.append(outcome)
            self._progress.advance(1, outcome.size if isinstance(outcome, Fetched) else 0)
            if len(outcomes) >= _CLONE_CHUNK:
                held += self._record(outcomes)
                outcomes = []
        if outcomes:
            held += self._record(outcomes)
        if held:
            raise missing(held)

    def _wanted(self) -> Iterator[WantedFile]:
        indexes = self._store.wanted_indexes()
        for index in sorted(
            indexes, key=lambda name: (self._store.index_type(name) in (None, "mirror"), name)
        ):
            after = ""
            while files := self._store.wanted_files(index, after, _CLONE_CHUNK):
                after = files[-1].relpath
                yield from self.not_skipped(files)

    def _record(self, outcomes: list[Outcome]) -> list[Fault]:
        """Record what files of the ledger came to, while the next ones arrive; return what holds us back."""
        present = {o.file.relpath: o.size for o in outcomes if isinstance(o, Fetched)}
        verdict = self.judge([o for o in outcomes if isinstance(o, Refused)])
        self._store.files_arrived(present, verdict.absent, (*verdict.faults, *verdict.held))
        return verdict.held

    def retry_faults(self, limit: int = _CLONE_CHUNK) -> None:
        """Ask once more for up to `limit` files that no serial waits for, where their time has come."""
        # A time beyond the longest wait was set by a clock that was wrong.
        faults = self._store.faults_due(clock.now(), clock.later(_RETRY_LAST_SECONDS), limit)
        files = [file for path in faults if (file := self._store.wanted_file(path)) is not None]
        files += self._forgotten(limit - len(files))
        present: dict[str, int] = {}
        refused: list[Refused] = []
        for outcome in self._fetch(files):
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            if outcome.staged is not None:
                # Its serial is committed, so it may take its place at once.
                self._files.place([(outcome.file.relpath, outcome.staged)])
            present[outcome.file.relpath] = outcome.size
        verdict = self.judge(refused)
        again = [
            self._again(refusal, faults.get(refusal.file.relpath), verdict)
            for refusal in refused
            if refusal.file.relpath not in verdict.absent
        ]
        if files:
            self._store.files_arrived(present, verdict.absent, tuple(again))

    def _again(self, refusal: Refused, known: Fault | None, verdict: Judgement) -> Fault:
        """Return the fault of a file whose serial is committed: nothing waits for it, whatever is wrong."""
        judged = next((f.kind for f in verdict.faults if f.relpath == refusal.file.relpath), "skipped")
        tries = known.tries if known is not None else 0
        wait = min(_RETRY_LAST_SECONDS, _RETRY_FIRST_SECONDS * 2 ** min(tries, 10))
        return self._fault(refusal, judged if known is None else known.kind, wait)

    def _forgotten(self, limit: int) -> list[WantedFile]:
        """Return up to `limit` files that are neither here, nor among the faults, nor to be skipped."""
        found: list[WantedFile] = []
        after = ""
        while len(found) < limit:
            some = self._store.forgotten_files(after, _CLONE_CHUNK)
            if not some:
                break
            after = some[-1].relpath
            found += self.not_skipped(some)
        return found[: max(0, limit)]


def missing(held: list[Fault]) -> FilesMissing:
    """Return the error that names files which hold a serial back."""
    first = min(held, key=lambda fault: fault.serial)
    others = f", and {len(held) - 1} more" if len(held) > 1 else ""
    return FilesMissing(f"fetch of {first.relpath}{others}", first.reason, serial=first.serial)


def until(groups: Iterable[list[ChangelogEntry]], last: int | None) -> Iterator[list[ChangelogEntry]]:
    """Yield the groups up to the entry of serial `last`."""
    for group in groups:
        if last is None or not group or group[-1].serial <= last:
            yield group
            continue
        yield [entry for entry in group if entry.serial <= last]
        return
