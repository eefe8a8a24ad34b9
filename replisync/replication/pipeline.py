"""The loop: entries from the primary, files before serials, one commit per batch.

A step reads the position from the target, asks the primary for later entries, and applies them in batches.
After any error the next step begins from the target again: no state is carried over in memory. Each step can
be repeated at any point without doing anything twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field

from replisync.changelog.divergence import Comparison
from replisync.changelog.plan import Batch, BatchLimits, batches
from replisync.changelog.ports import Hello, History
from replisync.changelog.records import HELD, Commit
from replisync.devpi.entries import ChangelogEntry
from replisync.errors import (
    BrokenStream,
    FilesMissing,
    ForeignWriter,
    LocalFailure,
    NotPermitted,
    NotThePrimary,
    ReplisyncError,
    WrongHistory,
)
from replisync.replication.context import Context
from replisync.replication.fetch import Fetcher, Refused
from replisync.replication.missing import Tally, Wanted
from replisync.replication.readahead import read_ahead
from replisync.replication.refusals import Judgement, missing
from replisync.replication.settle import Settler, recover, settle
from replisync.standby.database.store import Store
from replisync.system import clock

Rewrite = Callable[[Iterable[list[ChangelogEntry]]], Iterable[list[ChangelogEntry]]]


@dataclass(frozen=True, slots=True)
class Rules:
    """How entries are applied.

    limits: of one commit.
    skip_indexes: names or types of indexes whose files are left where they are; `all` for every one.
    retain: whether what deltas drop is kept in the retained folder.
    rewrite: makes of the primary's entries those that are stored, where they are not the same.
    """

    limits: BatchLimits = field(default_factory=BatchLimits)
    skip_indexes: frozenset[str] = frozenset()
    retain: bool = True
    rewrite: Rewrite | None = None


class Pipeline:
    """One target that follows one primary.

    fetcher: brings files to the target.
    tally: the counters to use; None for new ones.
    """

    def __init__(
        self,
        primary: History,
        store: Store,
        fetcher: Fetcher,
        context: Context,
        rules: Rules,
        tally: Tally | None = None,
    ) -> None:
        self._primary = primary
        self._store = store
        self._fetcher = fetcher
        self._files = files = fetcher.target
        self._stop, self._log, self._progress = context.stop, context.log, context.progress
        self._limits = rules.limits
        self._settle = Settler(lambda: settle(store, files, retain=rules.retain), context.log)
        # After any error another server may answer, even over the same connection to a proxy.
        self._doubtful = True
        self._left_at: int | None = None  # our serial, as far as known
        self._reached = -1  # the serial after our last commit
        self._counted = -1  # the last serial of the stage that is shown
        self._rewrite = rules.rewrite or (lambda groups: groups)
        self.tally = tally or Tally()
        self.wanted = Wanted(store, fetcher, context, rules.skip_indexes, self.tally)

    # Identity.

    def check_identity(self) -> Hello:
        """Check that the primary's history is the one that we follow; return its hello.

        Raises WrongHistory if its serial is below ours or its last entries up to ours differ, NotThePrimary
        if another server answers at its URL.
        """
        # Another program may have written while we waited: its entries are not ours to compare.
        source, serial = self._store.source(), self._position()
        comparison = Comparison(
            self._store.primary_entry,
            self._entry,
            # With rewritten entries, the primary's own bytes are known for the last one only.
            first=0 if source is None or source.based_on < 0 else max(serial, 0),
            complete=source is not None and source.seed_finished is not None,
        )
        try:
            hello = comparison.check(serial)
        except NotThePrimary as err:
            # A promotion must know of it, also when that server is gone too.
            shown = err.details.get("answered_serial")
            with suppress(ReplisyncError):
                self._store.raise_known_serial(shown if isinstance(shown, int) else -1)
            raise
        known = self._store.put_agreement(hello.serial, clock.now())
        if hello.serial < known:
            self._log.warning(
                f"the primary went back from serial {known} to {hello.serial}, "
                "as after a restore from a backup"
            )
        self._doubtful = False
        return hello

    def _entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        with self._stop.waiting():
            return self._primary.entry(serial)

    def progress(self) -> tuple[int, int]:
        """Return what grows with the work done: our serial, and the bytes of files that arrived."""
        return self._store.last_serial(), self._fetcher.received

    def recover(self) -> None:
        """Finish an interrupted run: moves that its commits demand, and files that never arrived."""
        recover(self._settle, self._store, self._files)

    # Entries.

    def step(self, *, poll: bool, last: int | None = None, metadata_only: bool = False) -> int:
        """Apply the primary's entries beyond our serial; return the serial that the primary had.

        poll: wait up to 30 seconds for a change.
        last: apply nothing beyond this serial.
        metadata_only: leave wanted files for later; only right in an incomplete clone.
        Raises Stopped between two batches when asked to stop.
        """
        self._settle()
        position = self._position()
        try:
            return self._step(position, poll=poll, last=last, metadata_only=metadata_only)
        except LocalFailure as err:
            err.serial = self._reached + 1 if err.serial is None else err.serial
            raise

    def _step(self, position: int, *, poll: bool, last: int | None, metadata_only: bool) -> int:
        self._left_at = self._reached = position
        doubtful, self._doubtful = self._doubtful, True
        if doubtful or self._primary.disconnected:
            # Now, not when a change has arrived and clients wait for it.
            self.check_identity()
            self._doubtful = True
        with ExitStack() as stack:
            try:
                with self._stop.waiting():
                    changes = stack.enter_context(self._primary.changes(position + 1, poll=poll))
            except WrongHistory:
                self.check_identity()  # finds the reason
                raise
            if changes.new_connection:
                self.check_identity()
                self._doubtful = True
            upto = min(changes.hello.serial, changes.hello.serial if last is None else last)
            # After an error the same stage continues, with its progress kept.
            if upto > position >= self._counted and not metadata_only:
                self._progress.stage("changes", upto - position, "serials")
                self._counted = upto
            try:
                self._apply_all(changes.groups, changes.hello.serial, last, metadata_only)
            except BaseException:
                # A promotion at any time must know how far the primary was.
                with suppress(ReplisyncError):
                    self._store.put_contact(changes.hello.serial, clock.now())
                raise
        if self._reached == position and position < min(changes.hello.serial, last or changes.hello.serial):
            raise BrokenStream(
                "cannot read the primary's changelog", "the answer ended before its first entry"
            )
        self._position()
        if self._reached == position:
            self._store.put_contact(changes.hello.serial, clock.now())
        self._doubtful = False
        return changes.hello.serial

    def _position(self) -> int:
        """Return our serial; check that it is where we left it, and that only replisync wrote.

        Raises ForeignWriter.
        """
        position = self._store.own_serial()
        if self._left_at not in (None, position):
            raise ForeignWriter(
                "cannot follow the primary",
                f"the target is at serial {position}, but we left it at {self._left_at}",
            )
        return position

    def _apply_all(
        self,
        groups: Iterator[list[ChangelogEntry]],
        primary_serial: int,
        last: int | None,
        metadata_only: bool,
    ) -> None:
        entries = read_ahead(groups, self._stop)
        counted = metadata_only or self._reached < primary_serial
        with closing(entries):
            for batch in batches(self._rewrite(until(entries, last)), self._limits):
                if not counted:
                    # Entries that the primary added after it began to answer count as new work.
                    self._progress.stage("changes", None, "serials")
                    counted = True
                self._apply(batch, primary_serial, metadata_only=metadata_only)

    def _apply(self, batch: Batch, primary_serial: int, *, metadata_only: bool) -> None:
        """Commit a batch; if one of its serials must wait for a file, commit those before it."""
        self._stop.check()
        try:
            commit = self._without_files(batch) if metadata_only else self._with_files(batch)
        except FilesMissing as err:
            good = batch.before(err.serial or batch.first)
            if good is not None:
                self._apply(good, primary_serial, metadata_only=False)
            raise
        # If the commit fails, its outcome is unknown.
        self._left_at = None
        moves = self._store.apply(commit, primary_serial, clock.now())
        self._left_at = self._reached = batch.last
        if moves:
            self._settle()
        self.tally.entries += len(batch.entries)
        self._progress.advance(len(batch.entries), batch.size)
        self._log.debug("committed", serial=batch.last, entries=len(batch.entries))

    # Files.

    def _without_files(self, batch: Batch) -> Commit:
        """Return the changes to commit while no devpi-server reads yet: wanted files stay wanted."""
        return Commit(batch, leaving=self._in_place(batch.dropped))

    def _in_place(self, relpaths: Iterable[str]) -> frozenset[str]:
        return frozenset(path for path in relpaths if self._is_in_place(path))

    def _is_in_place(self, relpath: str) -> bool:
        try:
            return self._files.size_of(relpath) is not None
        except NotPermitted:
            return True  # as far as known: it is retained as soon as we may look

    def _with_files(self, batch: Batch) -> Commit:
        """Bring the files that the batch demands; return the changes that may now be committed.

        Raises FilesMissing if a file is missing for which the serial must wait.
        """
        wanted = self.wanted.not_skipped(batch.wanted.values())
        if wanted:
            # Durable before the first of them is placed: another process may look meanwhile.
            self._store.expect({file.relpath: file.serial for file in wanted})
        wanted, put_off = self.wanted.to_ask(wanted)
        waiting = [fault for fault in put_off if fault.kind == HELD]
        present: dict[str, int] = {}
        staged: dict[str, str] = {}
        refused: list[Refused] = []
        try:
            for outcome in self.wanted.fetch(wanted):
                if isinstance(outcome, Refused):
                    refused.append(outcome)
                    continue
                present[outcome.file.relpath] = outcome.size
                self._progress.advance(0, outcome.size)
                if outcome.staged is not None:
                    staged[outcome.file.relpath] = outcome.staged
        except ReplisyncError:
            # Do not try these again.
            with suppress(ReplisyncError):
                self._learn(self.wanted.judge(refused, batch))
            raise
        verdict = self.wanted.judge(refused, batch)
        if verdict.held or waiting:
            self._learn(verdict)
            raise missing([*verdict.held, *waiting])
        without = [*batch.dropped, *(path for path in batch.wanted if path not in present)]
        faults = (*verdict.faults, *put_off)
        return Commit(batch, present, staged, self._in_place(without), verdict.absent, faults)

    def _learn(self, verdict: Judgement) -> None:
        """Record the faults of files whose serial is not committed yet."""
        faults = (*verdict.faults, *verdict.held)
        if faults:
            self._store.put_faults(faults)


def until(groups: Iterable[list[ChangelogEntry]], last: int | None) -> Iterator[list[ChangelogEntry]]:
    """Yield the groups up to the entry of serial `last`."""
    for group in groups:
        if last is None or not group or group[-1].serial <= last:
            yield group
            continue
        yield [entry for entry in group if entry.serial <= last]
        return
