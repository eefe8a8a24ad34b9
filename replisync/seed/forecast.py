"""What a clone would fetch, found out without writing anything into the target.

Histories are read as a clone reads them, and forgotten at once: only what is alive is kept, in a temporary
database. What is not on this machine is asked for its size.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replisync.divergence import Comparison
from replisync.errors import BrokenStream, PrimaryTimeout, WrongHistory
from replisync.keys import fetch_problem, index_of
from replisync.loop import Patience
from replisync.pipeline import History, until
from replisync.plan import BatchLimits, WantedFile, batches
from replisync.primary import Primary
from replisync.seed import basecopy, changelog
from replisync.seed.history import LocalHistory
from replisync.seed.local import FILES, LocalFiles
from replisync.seed.target import connect, first_contact, known_identity
from replisync.serverdir import Serverdir
from replisync.standby import Context, Settings, local_files, open_database
from replisync.storage import SQLITE
from replisync.store.base import Store
from replisync.store.live import LiveFiles
from replisync.store.records import Identity
from replisync.store.snapshot import Rows, take_snapshot

_LIMITS = BatchLimits(files=10_000)

# Files that are looked at together.
_GROUP = 500


@dataclass(slots=True)
class Forecast:
    """What a clone would fetch.

    source: the kind of the seed: changelog, base-copy or export.
    role: of the server that it would become: replica, or standalone.
    from_serial, to_serial: what is still to be written, both included; None where only devpi-import will
        tell.
    serials: how many these are; None as above.
    local_serials: how many of them are on this machine.
    history_bytes: of the entries that come from the primary.
    files, bytes: what is still to be brought, as far as sizes are known.
    here: files that are in place already.
    local, local_bytes: how many of them are on this machine.
    folders: in which folders: files by folder.
    unknown_sizes: files that come from the primary, and whose size it does not tell.
    missing: files that are nowhere, where there is no primary to ask.
    """

    serverdir: str
    source: str
    role: str
    from_serial: int | None = None
    to_serial: int | None = None
    serials: int | None = None
    local_serials: int = 0
    history_bytes: int = 0
    files: int = 0
    bytes: int = 0
    here: int = 0
    local: int = 0
    local_bytes: int = 0
    folders: dict[str, int] = field(default_factory=dict)
    unknown_sizes: int = 0
    missing: int = 0

    def note_serials(self, first: int, last: int) -> None:
        """Say what is still to be written."""
        self.from_serial, self.to_serial, self.serials = first, last, max(0, last - first + 1)


def of_changelog(serverdir: Serverdir, url: str, settings: Settings, context: Context) -> Forecast:
    """Return what a clone over the changelog would fetch, or what is left of an interrupted one.

    Raises what the clone would raise before it writes, and while it reads.
    """
    local = local_files(serverdir, settings)
    with _begun(serverdir) as (store, known), connect(url, known, settings) as primary:
        patience = Patience(context.stop, context.log, seconds=settings.patience)
        hello = first_contact(primary, patience, context)
        with _Survey(serverdir, store, settings, context) as survey:
            first = survey.go_on_from(primary)
            survey.read(primary, first, hello.serial, patience)
            forecast = Forecast(str(serverdir), changelog.KIND, "replica", history_bytes=survey.size)
            forecast.note_serials(first, hello.serial)
            survey.weigh(forecast, local, primary, patience)
    return forecast


def of_copy(
    serverdir: Serverdir, root: Path, url: str | None, settings: Settings, context: Context
) -> Forecast:
    """Return what a copy of a serverdir would fetch, or what is left of an interrupted one.

    Raises what the copy would raise before it writes, and while it reads.
    """
    origin = basecopy.Origin(root)
    basecopy.check_apart(serverdir, root, "--from-serverdir")
    local_files(serverdir, settings)
    local = LocalFiles(settings.search, own=root / FILES)
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with ExitStack() as stack:
        store, known = stack.enter_context(_begun(serverdir))
        primary = None if url is None else stack.enter_context(connect(url, known, settings))
        if primary is not None:
            primary.expect(origin.uuid)
            last = first_contact(primary, patience, context).serial
        survey = stack.enter_context(_Survey(serverdir, store, settings, context))
        with _snapshot(origin, context) as history:
            first = survey.go_on_from(history)
            survey.read(history, first, history.serial, patience)
        forecast = Forecast(str(serverdir), basecopy.KIND, "replica" if primary else "standalone")
        end = history.serial if primary is None else max(last, history.serial)
        forecast.note_serials(first, end)
        forecast.local_serials = max(0, history.serial - first + 1)
        if primary is not None:
            survey.size = 0
            survey.read(primary, max(first, history.serial + 1), end, patience)
            forecast.history_bytes = survey.size
        survey.weigh(forecast, local, primary, patience)
    return forecast


@contextmanager
def _snapshot(origin: basecopy.Origin, context: Context) -> Iterator[LocalHistory]:
    """Hold the history of a serverdir, in a copy in TMPDIR that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="replisync-") as folder:
        path = Path(folder) / "snapshot.sqlite"
        take_snapshot(origin.database, path, context.stop.check)
        with closing(Rows(path)) as rows:
            yield LocalHistory(rows, origin.uuid)


@contextmanager
def _begun(serverdir: Serverdir) -> Iterator[tuple[Store | None, Identity | None]]:
    """Hold the database of an interrupted clone, and where its data comes from, if there was one.

    Raises TargetUnusable where the serverdir cannot be cloned into.
    """
    known = known_identity(serverdir)
    if known is not None:
        with open_database(serverdir) as store:
            store.check_version()
            yield store, known
        return
    if serverdir.remembered_storage() is None and serverdir.storage().name != SQLITE:
        with open_database(serverdir) as store:
            store.check_unused()
    yield None, None


class _Survey:
    """What is alive after all that was read, on top of what an interrupted clone has.

    size: of the entries that were read, in bytes.
    """

    def __init__(
        self, serverdir: Serverdir, store: Store | None, settings: Settings, context: Context
    ) -> None:
        self.size = 0
        self._store = store
        self._settings = settings
        self._context = context
        self._live = LiveFiles()
        # What an interrupted run put in place is not always in the ledger yet.
        in_place = store is not None and serverdir.storage().name == SQLITE
        self._here = LocalFiles((), own=serverdir.files) if in_place else None

    def __enter__(self) -> "_Survey":
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(*exc)

    def go_on_from(self, history: History) -> int:
        """Begin with what an interrupted clone has; return the serial that follows it.

        Raises WrongHistory where the history is another than the one that it began with.
        """
        store = self._store
        if store is None:
            return 0
        last, source = store.last_serial(), store.source()
        first = 0 if source is None or source.based_on < 0 else max(last, 0)
        Comparison(store.primary_entry, history.entry, first=first, complete=False).check(last)
        for index in store.wanted_indexes():
            after = ""
            while some := store.wanted_files(index, after, _GROUP):
                self._live.demand(some)
                after = some[-1].relpath
        return last + 1

    def read(self, history: History, first: int, last: int, patience: Patience) -> None:
        """Add the entries from `first` to `last` of a history."""
        self._context.log.info("history", from_serial=first, to_serial=last)
        self._context.progress.stage("history", max(0, last - first + 1), "serials")
        position = first - 1

        def go_on() -> None:
            nonlocal position
            before = position
            with history.changes(position + 1, poll=False) as changes:
                if changes.hello.serial < last:
                    raise WrongHistory(
                        "reading of the primary's changelog", f"it went back to serial {changes.hello.serial}"
                    )
                for batch in batches(until(changes.groups, last), _LIMITS):
                    self._context.stop.check()
                    self._live.add(batch)
                    self._context.progress.advance(len(batch.entries), batch.size)
                    self.size += batch.size
                    position = batch.last
            if position == before:
                raise BrokenStream(
                    "reading of the primary's changelog", "the answer ended before its first entry"
                )

        while position < last:
            patience.call(go_on, progress=lambda: position)

    def weigh(
        self, forecast: Forecast, local: LocalFiles | None, primary: Primary | None, patience: Patience
    ) -> None:
        """Count what is alive: what is here, what is on this machine, and how long the rest is."""
        self._context.progress.stage("sizes", None, "files")
        folders: Counter[str] = Counter()
        with ThreadPoolExecutor(self._settings.threads) as pool:
            for group in self._live.groups(_GROUP):
                self._context.stop.check()
                if self._is_skipped(index_of(group[0].relpath)):
                    continue
                rest = self._weigh_local(group, forecast, local, folders)
                if primary is None:
                    forecast.missing += len(rest)
                else:
                    sizes = patience.call(lambda: list(pool.map(_size_on(primary), rest)))  # noqa: B023
                    forecast.bytes += sum(size or 0 for size in sizes)
                    forecast.unknown_sizes += sizes.count(None)
                self._context.progress.advance(len(group))
        forecast.folders = dict(sorted(folders.items()))

    def _weigh_local(
        self, group: list[WantedFile], forecast: Forecast, local: LocalFiles | None, folders: Counter[str]
    ) -> list[WantedFile]:
        """Count the files of a group that are on this machine; return the others."""
        rest = []
        for file in group:
            if self._here is not None and file.digest is not None and self._here.find(file):
                forecast.here += 1
                continue
            forecast.files += 1
            found = None if local is None else local.find(file)
            if found is None:
                rest.append(file)
                continue
            folder, size = found
            forecast.local += 1
            forecast.local_bytes += size
            forecast.bytes += size
            folders[str(folder)] += 1
        return rest

    def _is_skipped(self, index: str) -> bool:
        if not self._settings.skip_indexes:
            return False
        known, kind = self._live.index_type(index)
        if not known and self._store is not None:
            kind = self._store.index_type(index)
        return not self._settings.skip_indexes.isdisjoint({"all", index, kind})


def _size_on(primary: Primary) -> Callable[[WantedFile], int | None]:
    def size(file: WantedFile) -> int | None:
        if fetch_problem(file.relpath):
            return None
        try:
            return primary.size(file.relpath)
        except (PrimaryTimeout, BrokenStream):
            return None

    return size
