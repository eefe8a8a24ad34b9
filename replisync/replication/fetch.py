"""Downloads: up to N at a time, one outcome per file.

Workers bring files into the staging folder; the caller's thread gives them their names in groups, since
syncing one file costs about as much as syncing many. Nothing here decides about a serial, or knows a
database.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Literal

from replisync.changelog.plan import WantedFile
from replisync.changelog.ports import (
    Download,
    FileSource,
    FileStore,
    LocalSource,
    Progress,
    Received,
    Receiving,
    StopFlag,
)
from replisync.devpi.keys import fetch_problem, hold_problem
from replisync.errors import PrimaryRefused, PrimaryUnreachable, ReplisyncError, Stopped, WrongContent

# How often a wait for downloads checks whether to stop; received files then wait no longer for a full group.
_LOOK_SECONDS = 0.2

# The status of an answer that broke off, never came, or is not the primary's own.
_BROKEN = 504

# The status of a file that is too large for its place.
TOO_BIG = 413

# Waits before a download is resumed where it broke off: a server may be restarting.
_RESUME_SECONDS = (0.2, 1.0, 3.0)

# Statuses that a server sends for one file, and for everything while it is busy or failing.
_DOUBTFUL = frozenset({401, 403, 408, 425, 429, 500, 503, 504})


# The origin of a file: the network, a folder of this machine, or already in place.
Origin = Literal["primary", "local", "here"]

# Which files get their names at once; see Fetcher.
Place = Literal["all", "free", "none"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is durably here.

    size: in bytes.
    staged: its name in the staging folder, if another content is still in its place; else None.
    origin: the way it came here.
    """

    file: WantedFile
    size: int
    staged: str | None = None
    origin: Origin = "primary"


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that the primary did not deliver.

    status: the HTTP status of the primary itself; 0 if the file cannot be requested at all.
    reason: in one clause.
    doubtful: whether a failing server, or a proxy, may send the same for everything.
    retry_after: the seconds that the server asks to wait before the next request, or None.
    costly: whether all of the file arrived, and was wrong.
    """

    file: WantedFile
    status: int
    reason: str
    doubtful: bool = False
    retry_after: float | None = None
    costly: bool = False


Outcome = Fetched | Refused


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file that has arrived, and counts as fetched once it is durable.

    name: in the staging folder.
    """

    fetched: Fetched
    name: str


class _Work:
    """State shared by the workers of one call and the caller's thread.

    todo: files to bring, each with its size if it is in place; None ends one worker.
    ended: no more files are to be taken.
    asking: held while a worker checks whether the source answers at all.
    answered: the start of the latest successful check.
    """

    def __init__(self) -> None:
        self.todo: SimpleQueue[tuple[WantedFile, int | None] | None] = SimpleQueue()
        self.ended = False
        self.asking = threading.Lock()
        self.answered = float("-inf")
        self._changed = threading.Condition()
        self._results: list[_Result] = []
        self._awaited = 0

    def put(self, result: "_Result") -> None:
        """Hand over the outcome of a file."""
        with self._changed:
            self._results.append(result)
            # A wake-up costs as much as a small file: only when there is enough.
            if len(self._results) >= self._awaited:
                self._changed.notify()

    def take(self, most: int) -> list["_Result"]:
        """Wait a moment for `number` results; return all that are there."""
        with self._changed:
            self._awaited = most
            self._changed.wait_for(lambda: len(self._results) >= most, _LOOK_SECONDS)
            taken, self._results = self._results, []
            return taken


# An error ends the call; None stands for a file that was not asked for.
_Result = Outcome | _Staged | BaseException | None


def _outcome(one: Outcome | _Staged, obstacles: Mapping[str, str]) -> Outcome:
    """Return the outcome of a file, after all received files have been placed."""
    if not isinstance(one, _Staged):
        return one
    obstacle = obstacles.get(one.fetched.file.relpath)
    return one.fetched if obstacle is None else Refused(one.fetched.file, 0, obstacle)


class Fetcher:
    """A pool of downloads.

    place: which files get their names at once: all, even if another content has the name, which is right only
        while no devpi-server reads, as in an incomplete clone; those whose place is free; or none. The others
        stay staged until their serial is committed.
    local: the files on this machine, which are searched before the network.
    received: the bytes that arrived, each byte of a file once, however often it is asked for.
    progress: shows the bytes as they arrive; None for none.
    """

    progress: Progress | None = None

    def __init__(
        self,
        source: FileSource,
        target: FileStore,
        *,
        threads: int,
        stop: StopFlag,
        place: Place = "free",
        local: LocalSource | None = None,
    ) -> None:
        self._source = source
        self.target = target
        self._target: Receiving = target  # what downloads use of it
        self._threads = threads
        self._stop = stop
        self._place = place
        self._local = local
        # The size of a group that is synced together; up to twice this number may be waiting or in transit.
        self._group = target.group
        self._best: dict[str, int] = {}  # bytes of incomplete files, at most so far
        self.received = 0

    def fetch(self, files: Iterable[WantedFile]) -> Iterator[Outcome]:
        """Yield the outcome of each file as it arrives, in no order; fewer when asked to stop.

        Files are taken from `files` in the caller's thread, some ahead of those that have arrived.
        Raises the first error that is not an outcome (of the disk, or of a source that no longer answers),
        after the other downloads ended.
        """
        work = _Work()
        workers: list[threading.Thread] = []
        wanted = iter(files)
        error: BaseException | None = None
        under_way = 0
        try:
            while True:
                under_way += self._hand_out(wanted, work, workers, under_way)
                if not under_way:
                    break
                group = work.take(min(self._group, under_way))
                if not group and self._stop.is_set():
                    break
                under_way -= len(group)
                error = error or next((one for one in group if isinstance(one, BaseException)), None)
                yield from self._durable([one for one in group if isinstance(one, Outcome | _Staged)])
        finally:
            self._end(work, workers)
        if error is not None:
            raise error

    def discard(self, outcomes: Iterable[Outcome]) -> None:
        """Remove staged files that are no longer wanted."""
        self._target.discard(one.staged for one in outcomes if isinstance(one, Fetched) and one.staged)

    def finds(self, file: WantedFile) -> bool:
        """Return whether this machine may have a file."""
        return self._local is not None and next(self._local.paths(file), None) is not None

    def _hand_out(
        self, wanted: Iterator[WantedFile], work: _Work, workers: list[threading.Thread], under_way: int
    ) -> int:
        """Give the workers more to do, as far as there is room; return the number of files."""
        room = 0 if work.ended or self._stop.is_set() else 2 * self._group - under_way
        files = list(islice(wanted, room))
        # One query for all: each costs as much as a small file if files are in a database.
        sizes = self._target.sizes_of([file.relpath for file in files if file.digest]) if files else {}
        for file in files:
            work.todo.put((file, sizes.get(file.relpath)))
        while len(workers) < min(self._threads, under_way + len(files)):
            name = f"fetch-{len(workers)}"
            workers.append(threading.Thread(target=self._run, args=(work,), name=name, daemon=True))
            workers[-1].start()
        return len(files)

    def _end(self, work: _Work, workers: list[threading.Thread]) -> None:
        """Let the workers end, and wait for them."""
        work.ended = True
        for _ in workers:
            work.todo.put(None)
        # A worker that hangs on a silent primary must not keep us from ending. It can do no harm: its file
        # has no name before it is complete, and counts for nothing before a commit.
        for worker in workers:
            while worker.is_alive():
                worker.join(_LOOK_SECONDS)
                if self._stop.is_set():
                    break

    def _run(self, work: _Work) -> None:
        """Bring files until told to end; each file that is taken has one result."""
        while (task := work.todo.get()) is not None:
            result: _Result = None
            if not (work.ended or self._stop.is_set()):
                try:
                    result = self._fetch_one(*task)
                    if isinstance(result, Refused) and result.doubtful and not self._answers(work):
                        result = None
                except BaseException as err:  # noqa: BLE001 - handed over to the caller's thread
                    work.ended = True
                    if isinstance(err, ReplisyncError) and err.serial is None:
                        err.serial = task[0].serial
                    result = err
            work.put(result)

    def _answers(self, work: _Work) -> bool:
        """Return whether the source answers, so that a refusal concerns one file only.

        False if the call ends for another reason. Raises the error of the source.
        """
        began = time.monotonic()
        with work.asking:
            if work.ended:
                return False
            if work.answered < began:
                now = time.monotonic()
                try:
                    self._source.check()
                except BaseException:
                    work.ended = True  # before another worker asks
                    raise
                work.answered = now
        return True

    def _durable(self, group: list[Outcome | _Staged]) -> list[Outcome]:
        """Return the outcomes once all that arrived is durable."""
        staged = [one for one in group if isinstance(one, _Staged)]
        moves = {one.fetched.file.relpath: one.name for one in staged if one.fetched.staged is None}
        # Nothing that the caller is to place later may fail there: it would take all others with it.
        names = {one.fetched.file.relpath: one.name for one in staged} if self._place == "none" else moves
        obstacles = self._obstacles(names)
        held = [
            one.name
            for one in staged
            if one.fetched.staged is not None and one.fetched.file.relpath not in obstacles
        ]
        if held:
            # A commit will promise this content, so it must survive a crash after the commit.
            self._target.hold(held)
        free = [(relpath, name) for relpath, name in moves.items() if relpath not in obstacles]
        if free:
            self._target.place(free)
        self._target.discard(names[relpath] for relpath in obstacles)
        return [_outcome(one, obstacles) for one in group]

    def _obstacles(self, relpaths: Iterable[str]) -> dict[str, str]:
        """Return the files that cannot be placed, and why: names collide on disk, or with each other."""
        found: dict[str, str] = {}
        names = set(relpaths)
        for relpath in names:
            above = relpath.rpartition("/")[0]
            while above and above not in names:
                above = above.rpartition("/")[0]
            obstacle = "another file has the path of its folder" if above else self._target.obstacle(relpath)
            if obstacle:
                found[relpath] = obstacle
        return found

    def _fetch_one(self, file: WantedFile, size: int | None) -> Outcome | _Staged:
        """Bring one file here, unless it is here already.

        size: of the file in its place; None if there is no such file, or its digest is unknown.
        Raises LocalFailure.
        """
        if size is not None and self._is_right(file):
            return Fetched(file, size, origin="here")
        local = self._take(file)
        if local is not None:
            return local
        problem = fetch_problem(file.relpath)
        if problem:
            return Refused(file, 0, problem)
        try:
            return self._download(file)
        except (PrimaryUnreachable, PrimaryRefused) as err:
            # This file may be the one that hangs: report it, and let the others continue.
            return Refused(file, _BROKEN, err.why, doubtful=True)

    def _take(self, file: WantedFile) -> Refused | _Staged | None:
        """Take a file from this machine; None if it does not have it."""
        if self._local is None or hold_problem(file.relpath):
            return None
        for path in self._local.paths(file):
            arrived = self._target.take(file.relpath, path, file.digest, link=self._local.links(path))
            if arrived is not None:
                return self._staged(file, arrived, "local")
        return None

    def _download(self, file: WantedFile) -> Refused | _Staged:
        with self._source.download(file.relpath) as answer:
            if answer.status != 200:
                doubtful = not answer.own or answer.status in _DOUBTFUL
                status = answer.status if answer.own else _BROKEN
                return Refused(file, status, answer.reason, doubtful, answer.retry_after)
            if problem := self._target.size_problem(answer.length or 0):
                return Refused(file, TOO_BIG, problem)
            try:
                chunks = self._content(file, answer)
                arrived = self._target.receive(file.relpath, chunks, file.digest, answer.length)
            except WrongContent as err:
                return Refused(file, answer.status, err.why, costly=True)
        self._best.pop(file.relpath, None)
        return self._staged(file, arrived, "primary")

    def _staged(self, file: WantedFile, arrived: Received, origin: Origin) -> Refused | _Staged:
        if problem := self._target.size_problem(arrived.size):
            self._target.discard([arrived.name])
            return Refused(file, TOO_BIG, problem)
        staged = arrived.name if self._in_use(file, arrived) else None
        return _Staged(Fetched(file, arrived.size, staged, origin), arrived.name)

    def _content(self, file: WantedFile, answer: Download) -> Iterator[bytes]:
        """Yield the content of a file; where a connection breaks off, go on from there if the server can."""
        done, length = 0, answer.length
        with ExitStack() as answers, ExitStack() as stack:
            if self.progress is not None:
                stack.callback(self.progress.received, file.relpath)
            while True:
                begun = done
                try:
                    for chunk in self._until_stopped(answer.chunks):
                        done += len(chunk)
                        self._count(file.relpath, done)
                        if done != length and self.progress is not None:
                            self.progress.receiving(file.relpath, done, length)
                        yield chunk
                    return
                except PrimaryUnreachable:
                    # The digest tells whether the pieces are of one file.
                    rest = self._rest(file, done, answers) if done > begun and file.digest else None
                    if rest is None:
                        raise
                    answer = rest

    def _rest(self, file: WantedFile, first: int, stack: ExitStack) -> Download | None:
        """Return the answer with the rest of a file; None if the server does not deliver it."""
        for seconds in _RESUME_SECONDS:
            if self._stop.wait(seconds):
                return None
            stack.close()
            try:
                rest = stack.enter_context(self._source.download(file.relpath, first))
            except PrimaryUnreachable:
                continue
            return rest if rest.status == 206 else None
        return None

    def _count(self, relpath: str, done: int) -> None:
        """Count bytes that are new: the same content that arrives again and again is no progress."""
        before = self._best.get(relpath, 0)
        if done > before:
            self._best[relpath] = done
            self.received += done - before

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise Stopped("cannot fetch files", "a signal asked to end it")
            yield chunk

    def _is_right(self, file: WantedFile) -> bool:
        """Return whether the right file is in its place; then it is durable too."""
        digest = file.digest
        if digest is None or self._target.digest_of(file.relpath, digest.algorithm) != digest.hexdigest:
            return False
        # It may have been stored by a devpi-server of the hot standby, which does not sync files.
        self._target.sync(file.relpath)
        return True

    def _in_use(self, file: WantedFile, arrived: Received) -> bool:
        """Return whether a devpi-server may be serving another content under the file's name."""
        if self._place == "none":
            return True
        if self._place == "all" or self._target.size_of(file.relpath) is None:
            return False
        return self._target.digest_of(file.relpath, "sha256") != arrived.sha256


class NoSource:
    """The source of files if there is no primary to ask.

    reason: why a requested file is missing.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def download(self, relpath: str, first: int = 0) -> AbstractContextManager[Download]:  # noqa: ARG002
        """Return that the file is missing."""
        return nullcontext(Download(404, None, iter(()), reason=self._reason))

    def check(self) -> None:
        """Do nothing: the absence of a source is known."""
