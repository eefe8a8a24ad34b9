"""What is alive after a history was read, and where its files are: on this machine, or how long elsewhere.

Nothing is written into the target. What is alive is kept in a temporary database, so that memory does not
grow with the history or the number of files.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from replisync.changelog import BatchLimits, Comparison, History, WantedFile, batches
from replisync.devpi import fetch_problem, index_of, path_problem
from replisync.errors import BrokenStream, PrimaryRefused, PrimaryUnreachable, WrongHistory
from replisync.primary import Primary
from replisync.replication import Context, Patience, until
from replisync.seed.forecast.live import LiveFiles
from replisync.session import Settings
from replisync.standby import LocalFiles, Serverdir, Store, read_dump, size_of

_LIMITS = BatchLimits(files=10_000)

# Files that are looked at together.
_GROUP = 500


@dataclass(slots=True)
class Forecast:
    """What a clone would fetch.

    source: the kind of the seed: changelog, base-copy or export.
    role: of the server that it would become: replica, or standalone.
    from_serial, to_serial: what is still to be written, both included; None if only devpi-import will
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


class Survey:
    """What is alive after all that was read, on top of what an interrupted clone has.

    size: of the entries that were read, in bytes.
    mirrors: whether files of mirrors are carried.
    """

    def __init__(
        self,
        serverdir: Serverdir,
        store: Store | None,
        settings: Settings,
        context: Context,
        *,
        mirrors: bool,
    ) -> None:
        self.size = 0
        self._store = store
        self._settings = settings
        self._skipped = settings.skip_indexes | (frozenset() if mirrors else {"mirror"})
        self._kinds: dict[str, str] = {}
        self._context = context
        self._live = LiveFiles()
        # What an interrupted run put in place is not always in the ledger yet.
        in_place = store is not None and not store.holds_files
        self._here = LocalFiles((), own=serverdir.files) if in_place else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(*exc)

    @property
    def seeded(self) -> int | None:
        """Up to which serial an interrupted clone has all metadata; None if it does not have it all."""
        source = None if self._store is None else self._store.source()
        return None if source is None else source.seed_serial

    def go_on_from(self, history: History | None) -> int:
        """Begin with what an interrupted clone has; return the serial that follows it.

        history: the one that it goes on with.
        Raises WrongHistory if it is another than the one that the clone began with.
        """
        store = self._store
        if store is None:
            return 0
        last, source = store.last_serial(), store.source()
        if history is not None:
            first = 0 if source is None or source.based_on < 0 else max(last, 0)
            Comparison(store.primary_entry, history.entry, first=first, complete=False).check(last)
        for index in store.wanted_indexes():
            after = ""
            while some := store.wanted_files(index, after, _GROUP):
                self._live.demand(some)
                after = some[-1].relpath
        return last + 1

    def demand(self, files: Iterable[WantedFile]) -> None:
        """Add files that are needed."""
        self._live.demand(files)

    def add_dump(self, found: Forecast, path: Path, left_out: frozenset[str]) -> None:
        """Count the files of a dump.

        left_out: indexes, and types of them, that are not imported.
        """
        counted: dict[str, list[int]] = {}  # by index: files, bytes, missing ones

        def note(item: dict[str, Any]) -> None:
            relpath = item["relpath"]
            if not path_problem(relpath):
                size = size_of(f"{path}/{relpath}")
                sums = counted.setdefault(index_of(relpath), [0, 0, 0])
                sums[0] += size is not None
                sums[1] += size or 0
                sums[2] += size is None

        indexes = read_dump(path, note)["indexes"]
        for name, content in indexes.items():
            config = content.get("indexconfig") if isinstance(content, dict) else None
            self._kinds[name] = str((config or {}).get("type", "stage"))
        for name, (files, size, missing) in counted.items():
            if left_out.isdisjoint({"all", name, self._kinds.get(name)}):
                found.files += files
                found.local += files
                found.bytes += size
                found.local_bytes += size
                found.missing += missing
                found.folders[str(path)] = found.folders.get(str(path), 0) + files

    def read(self, history: History, first: int, last: int, patience: Patience) -> None:
        """Add the entries from `first` to `last` of a history."""
        self._context.progress.stage(
            "history", max(0, last - first + 1), "serials", from_serial=first, to_serial=last
        )
        position = first - 1

        def go_on() -> None:
            nonlocal position
            before = position
            with history.changes(position + 1, poll=False) as changes:
                if changes.hello.serial < last:
                    raise WrongHistory(
                        "cannot read the primary's changelog",
                        f"it went back to serial {changes.hello.serial}",
                    )
                for batch in batches(until(changes.groups, last), _LIMITS):
                    self._context.stop.check()
                    self._live.add(batch)
                    self._context.progress.advance(len(batch.entries), batch.size)
                    self.size += batch.size
                    position = batch.last
            if position == before:
                raise BrokenStream(
                    "cannot read the primary's changelog", "the answer ended before its first entry"
                )

        while position < last:
            patience.call(go_on, progress=lambda: position)

    def weigh(
        self, found: Forecast, local: LocalFiles | None, primary: Primary | None, patience: Patience
    ) -> None:
        """Count what is alive: what is here, what is on this machine, and how long the rest is."""
        self._context.progress.stage("sizes", None, "files")
        folders = Counter(found.folders)
        with ThreadPoolExecutor(self._settings.access.threads) as pool:
            for group in self._live.groups(_GROUP):
                self._context.stop.check()
                if self._is_skipped(index_of(group[0].relpath)):
                    continue
                rest = self._weigh_local(group, found, local, folders)
                if primary is None:
                    found.missing += len(rest)
                    found.files -= len(rest)
                else:
                    sizes = patience.call(lambda: list(pool.map(_size_on(primary), rest)))  # noqa: B023
                    found.bytes += sum(size or 0 for size in sizes)
                    found.unknown_sizes += sizes.count(None)
                self._context.progress.advance(len(group))
        found.folders = dict(sorted(folders.items()))

    def _weigh_local(
        self, group: list[WantedFile], found: Forecast, local: LocalFiles | None, folders: Counter[str]
    ) -> list[WantedFile]:
        """Count the files of a group that are on this machine; return the others."""
        rest = []
        for file in group:
            if self._here is not None and file.digest is not None and self._here.find(file):
                found.here += 1
                continue
            found.files += 1
            place = None if local is None else local.find(file)
            if place is None:
                rest.append(file)
                continue
            folder, size = place
            found.local += 1
            found.local_bytes += size
            found.bytes += size
            folders[str(folder)] += 1
        return rest

    def _is_skipped(self, index: str) -> bool:
        if not self._skipped:
            return False
        known, kind = self._live.index_type(index)
        if not known:
            kind = self._kinds.get(index) if self._store is None else self._store.index_type(index)
        return not self._skipped.isdisjoint({"all", index, kind})


def _size_on(primary: Primary) -> Callable[[WantedFile], int | None]:
    def size(file: WantedFile) -> int | None:
        if fetch_problem(file.relpath):
            return None
        try:
            return primary.size(file.relpath)
        except (PrimaryUnreachable, PrimaryRefused):
            primary.check()  # it may be this one file's trouble
            return None

    return size
