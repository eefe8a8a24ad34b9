"""The files of an older serial: still in place, in the retained folder, or on the primary."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from replisync.changelog import Download, FileSource, FileStore, RetainedFiles, WantedFile
from replisync.errors import PrimaryRefused, PrimaryUnreachable, WrongHistory
from replisync.primary import Primary
from replisync.replication import Refused, not_skipped
from replisync.rewind.undo import Undo
from replisync.session import Session


@dataclass(slots=True)
class Found:
    """The files that the older serial needs, by outcome.

    present: sizes by relpath.
    staged: names in the staging folder of those that wait for the commit.
    placed: those that were placed now.
    """

    present: dict[str, int] = field(default_factory=dict)
    staged: dict[str, str] = field(default_factory=dict)
    placed: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    restored: int = 0
    fetched: int = 0


class _Retained:
    """The retained folder as a source of files.

    names: the names to try, by relpath.
    """

    def __init__(self, files: RetainedFiles, names: Mapping[str, str]) -> None:
        self._files = files
        self._names = names

    @contextmanager
    def download(self, relpath: str, first: int = 0) -> Iterator[Download]:  # noqa: ARG002
        """Open a retained file; a 404 without one to try."""
        name = self._names.get(relpath)
        size = None if name is None else self._files.size_retained(name)
        if name is None or size is None:
            yield Download(404, None, iter(()))
        else:
            yield Download(200, size, self._files.read_retained(name))

    def check(self) -> None:
        """Do nothing: it is always available."""


class Bringer:
    """Finds the files of an older serial: in place, in the retained folder, and on the primary.

    primary: None not to ask it.
    """

    def __init__(self, session: Session, primary: Primary | None) -> None:
        self._session = session
        self._store = session.store
        self._files = session.files
        self._primary = primary
        self._context = session.context

    @property
    def asks(self) -> bool:
        """Whether the primary is asked."""
        return self._primary is not None

    def bring(self, undo: Undo) -> Found:
        """Bring files here, durably.

        Raises LocalFailure, or Stopped; no key names the files that were placed by then.
        """
        found = Found()
        left = self._not_in_place(undo, found)
        asides = self._asides(undo, left)
        self._context.progress.stage("files", len(left), "files")
        if left:
            self._store.expect({file.relpath: -1 for file in left})
        while left:
            names = {file.relpath: asides[file.relpath].popleft() for file in left if asides[file.relpath]}
            refused = self._fetch(_Retained(self._files, names), left, found)
            found.restored = len(found.placed) + len(found.staged)
            left = [refusal.file for refusal in refused]
            if not any(asides[file.relpath] for file in left):
                break
        if left:
            before = found.restored
            found.refused = self._ask_primary(self._not_skipped(left), found)
            found.fetched = len(found.placed) + len(found.staged) - before
        return found

    def look(self, undo: Undo) -> Found:
        """Return the result of `bring` as far as known without requesting files."""
        found = Found()
        left = []
        for file in self._not_in_place(undo, found):
            if file.digest is None or self._digest(file) != file.digest.hexdigest:
                left.append(file)
            else:
                found.present[file.relpath] = self._files.size_of(file.relpath) or 0
        asides = self._asides(undo, left)
        for file in left:
            if any(self._files.size_retained(name) is not None for name in asides[file.relpath]):
                found.restored += 1
            elif not self._not_skipped([file]):
                continue
            elif self._primary is not None:
                found.fetched += 1
            else:
                found.refused.append(_not_retained(file))
                continue
            if self._files.size_of(file.relpath) is None:
                found.present[file.relpath] = 0
            else:
                found.staged[file.relpath] = ""
        return found

    def _not_skipped(self, files: list[WantedFile]) -> list[WantedFile]:
        return not_skipped(self._store, self._session.settings.skip_indexes, files)

    def _digest(self, file: WantedFile) -> str | None:
        return self._files.digest_of(file.relpath, file.digest.algorithm) if file.digest else None

    def _not_in_place(self, undo: Undo, found: Found) -> list[WantedFile]:
        """Return the files to look for; some files without a digest can be known to be right."""
        left = []
        rows = self._store.retained_of(undo.unchanged)
        unchanged = undo.unchanged - {row.relpath for row in rows if row.serial >= undo.first}
        for file in undo.wanted.values():
            size = None
            if file.relpath in unchanged:
                size = self._files.size_of(file.relpath)
            if size is None:
                left.append(file)
            else:
                found.present[file.relpath] = size
        return left

    def _asides(self, undo: Undo, files: list[WantedFile]) -> dict[str, deque[str]]:
        """Return the retained files that may have the old content, the likeliest first."""
        wanted = {file.relpath: file for file in files}
        asides: dict[str, deque[str]] = {relpath: deque() for relpath in wanted}
        rows = self._store.retained_of(wanted)
        for row in sorted(rows, key=lambda row: row.serial < undo.first):
            file = wanted[row.relpath]
            if file.digest is not None or self._is_of(file, row.serial, undo.until[row.relpath]):
                asides[row.relpath].append(row.stored_as)
        return asides

    def _is_of(self, file: WantedFile, put_aside: int, until: int) -> bool:
        """Return whether a file without a digest is the one that a commit retained.

        True if the commit that changed it first found it in place, and nothing had changed it before in the
        same commit.
        """
        commit, before = self._store.commit_of(until)
        return before < put_aside <= commit and file.serial <= before

    def _fetch(self, source: FileSource, files: list[WantedFile], found: Found) -> list[Refused]:
        refused: list[Refused] = []
        fetcher = self._session.fetcher(source, None, place="free")
        done = 0
        for outcome in fetcher.fetch(files):
            done += 1
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            self._context.progress.advance(1, outcome.size)
            relpath = outcome.file.relpath
            found.present[relpath] = outcome.size
            if outcome.staged is not None:
                found.staged[relpath] = outcome.staged
            elif outcome.origin != "here":
                found.placed.append(relpath)
        if done < len(files):
            self._context.stop.check()
        return refused

    def _ask_primary(self, files: list[WantedFile], found: Found) -> list[Refused]:
        if self._primary is None:
            return [_not_retained(file) for file in files]
        try:
            self._primary.hello()  # checks its UUID
            return self._fetch(self._primary, files, found)
        except (PrimaryUnreachable, PrimaryRefused, WrongHistory) as err:
            self._context.log.warning("the primary gives no files", error=str(err))
            return [
                Refused(file, 504, f"it is not retained, and the primary gave no answer: {err.why}")
                for file in files
                if file.relpath not in found.present
            ]


def _not_retained(file: WantedFile) -> Refused:
    return Refused(file, 404, "it is not retained, and no secret was given to request it from the primary")


def leaving(files: FileStore, undo: Undo, found: Found) -> frozenset[str]:
    """Return the files in place that the older serial does not have."""
    without = [*undo.dropped, *(path for path in undo.wanted if path not in found.present)]
    return frozenset(path for path in without if files.size_of(path) is not None)
