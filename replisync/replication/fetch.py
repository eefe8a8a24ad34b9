"""Downloads: a bounded number at a time, an outcome for each file.

Workers bring files into the staging folder; the caller's thread gives them their names in groups, since
making one file durable costs about as much as making many. Nothing here decides what an outcome means for a
serial, and nothing knows of databases.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Literal

from replisync.changelog.plan import WantedFile
from replisync.changelog.ports import Arrived, FileSource, FileStore, LocalSource, StopFlag
from replisync.devpi.keys import fetch_problem, hold_problem
from replisync.errors import PrimaryRefused, PrimaryUnreachable, ReplisyncError, Stopped, WrongContent

# How often somebody who waits for downloads looks whether to stop; what arrived waits no longer for others.
_LOOK_SECONDS = 0.2

# What stands for the status of an answer that broke off, never came, or is not the primary's own.
_BROKEN = 504

# The same of a file that is too big for where it must go.
TOO_BIG = 413

# What a server says of one file, and to everything when it is busy or in trouble.
_DOUBTFUL = frozenset({401, 403, 408, 425, 429, 500, 503, 504})


# Over the network; from a folder of this machine; or it was in its place before.
Origin = Literal["primary", "local", "here"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is durably here.

    size: in bytes.
    staged: its name in the staging folder, where another content is still in its place; else None.
    origin: how it came here.
    """

    file: WantedFile
    size: int
    staged: str | None = None
    origin: Origin = "primary"


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that the primary did not give.

    status: of HTTP, where it is the primary's own word; 0 where nobody can ask for it at all.
    reason: in one clause.
    doubtful: whether a server in trouble, or what stands in its place, says the same to everything.
    """

    file: WantedFile
    status: int
    reason: str
    doubtful: bool = False


Outcome = Fetched | Refused


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file that has arrived, and counts as fetched when it is durable.

    name: in the staging folder.
    """

    fetched: Fetched
    name: str


class _Work:
    """What the workers of one call and its caller's thread share.

    todo: files to be brought, each with the size that it has where it is in place; None tells one worker to
        end.
    ended: set where no more files are to be taken.
    asking: held by who asks the source whether it answers at all.
    answered: when the last one who was answered began to ask.
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
        """Hand over what a file came to."""
        with self._changed:
            self._results.append(result)
            # Waking somebody up costs as much as a small file does: only when there is enough.
            if len(self._results) >= self._awaited:
                self._changed.notify()

    def take(self, most: int) -> list["_Result"]:
        """Wait a moment for so many results; return all that are there."""
        with self._changed:
            self._awaited = most
            self._changed.wait_for(lambda: len(self._results) >= most, _LOOK_SECONDS)
            taken, self._results = self._results, []
            return taken


# An error ends the call; None stands for a file that was left where it is.
_Result = Outcome | _Staged | BaseException | None


def _outcome(one: Outcome | _Staged, obstacles: Mapping[str, str]) -> Outcome:
    """Return what a file came to, after all that can have a place has one."""
    if not isinstance(one, _Staged):
        return one
    obstacle = obstacles.get(one.fetched.file.relpath)
    return one.fetched if obstacle is None else Refused(one.fetched.file, 0, obstacle)


class Fetcher:
    """A pool of downloads.

    replace: whether a file may take the place of another content at once. It may where no devpi-server can
        be reading, as in a clone that is not complete; else it stays staged until its serial is committed.
    local: where to look for files on this machine before they are asked for.
    """

    def __init__(
        self,
        source: FileSource,
        target: FileStore,
        *,
        threads: int,
        stop: StopFlag,
        replace: bool = False,
        local: LocalSource | None = None,
    ) -> None:
        self._source = source
        self.target = target
        self._threads = threads
        self._stop = stop
        self._replace = replace
        self._local = local
        # Files that are made durable together; twice as many may be waiting for that or on their way.
        self._group = target.group

    def fetch(self, files: Iterable[WantedFile]) -> Iterator[Outcome]:
        """Yield the outcome for each file as it is there, in no order; fewer where we are to stop.

        Files are taken from `files` in the caller's thread, some ahead of those that are there.
        Raises the first error that is no outcome (the disk, or a source that answers nothing any more), after
        the other downloads ended.
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

    def finds(self, file: WantedFile) -> bool:
        """Return whether something on this machine may be a file."""
        return self._local is not None and next(self._local.paths(file), None) is not None

    def _hand_out(
        self, wanted: Iterator[WantedFile], work: _Work, workers: list[threading.Thread], under_way: int
    ) -> int:
        """Give the workers more to do, as far as there is room; return how many files."""
        room = 0 if work.ended or self._stop.is_set() else 2 * self._group - under_way
        files = list(islice(wanted, room))
        # All in one question, since each costs as much as a small file where files are in a database.
        sizes = self.target.sizes_of([file.relpath for file in files if file.digest]) if files else {}
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
        # One that hangs on a silent primary must not keep us from ending; it can do no harm, since what it
        # brings has no name before it is complete, and counts for nothing before a commit.
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
        """Tell whether the source answers, so that a refusal is one file's.

        False where the call ends for another reason. Raises what is wrong with the source.
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
                    work.ended = True  # before somebody else asks
                    raise
                work.answered = now
        return True

    def _durable(self, group: list[Outcome | _Staged]) -> list[Outcome]:
        """Return the outcomes after all that arrived is durable."""
        staged = [one for one in group if isinstance(one, _Staged)]
        held = [one.name for one in staged if one.fetched.staged is not None]
        moves = {one.fetched.file.relpath: one.name for one in staged if one.fetched.staged is None}
        obstacles = self._obstacles(moves)
        if held:
            # A commit will promise this content, so it must survive whatever happens after it.
            self.target.hold(held)
        free = [(relpath, name) for relpath, name in moves.items() if relpath not in obstacles]
        if free:
            self.target.place(free)
        self.target.discard(moves[relpath] for relpath in obstacles)
        return [_outcome(one, obstacles) for one in group]

    def _obstacles(self, relpaths: Iterable[str]) -> dict[str, str]:
        """Return which files can have no place, and why: names that collide on disk, also with each other."""
        found: dict[str, str] = {}
        names = set(relpaths)
        for relpath in names:
            above = relpath.rpartition("/")[0]
            while above and above not in names:
                above = above.rpartition("/")[0]
            obstacle = "another file has the path of its folder" if above else self.target.obstacle(relpath)
            if obstacle:
                found[relpath] = obstacle
        return found

    def _fetch_one(self, file: WantedFile, size: int | None) -> Outcome | _Staged:
        """Bring one file here, unless it is here already.

        size: of what is in its place; None where nothing is, or nobody knows what it must be.
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
            # This one file may be what hangs: it must be seen, and the others must go on.
            return Refused(file, _BROKEN, err.why, doubtful=True)

    def _take(self, file: WantedFile) -> Refused | _Staged | None:
        """Bring a file that lies on this machine; None where it does not."""
        if self._local is None or hold_problem(file.relpath):
            return None
        for path in self._local.paths(file):
            arrived = self.target.take(file.relpath, path, file.digest, link=self._local.links(path))
            if arrived is not None:
                return self._staged(file, arrived, "local")
        return None

    def _download(self, file: WantedFile) -> Refused | _Staged:
        with self._source.download(file.relpath) as answer:
            if answer.status != 200:
                doubtful = not answer.own or answer.status in _DOUBTFUL
                return Refused(file, answer.status if answer.own else _BROKEN, answer.reason, doubtful)
            if problem := self.target.size_problem(answer.length or 0):
                return Refused(file, TOO_BIG, problem)
            try:
                chunks = self._until_stopped(answer.chunks)
                arrived = self.target.receive(file.relpath, chunks, file.digest, answer.length)
            except WrongContent as err:
                return Refused(file, answer.status, err.why)
        return self._staged(file, arrived, "primary")

    def _staged(self, file: WantedFile, arrived: Arrived, origin: Origin) -> Refused | _Staged:
        if problem := self.target.size_problem(arrived.size):
            self.target.discard([arrived.name])
            return Refused(file, TOO_BIG, problem)
        staged = arrived.name if self._in_use(file, arrived) else None
        return _Staged(Fetched(file, arrived.size, staged, origin), arrived.name)

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise Stopped("cannot fetch files", "a signal asked to end it")
            yield chunk

    def _is_right(self, file: WantedFile) -> bool:
        """Tell whether what is in a file's place is the file; then it is durable too."""
        digest = file.digest
        if digest is None or self.target.digest_of(file.relpath, digest.algorithm) != digest.hexdigest:
            return False
        # It may be the work of a devpi-server of the hot standby, which does not sync what it stores.
        self.target.sync(file.relpath)
        return True

    def _in_use(self, file: WantedFile, arrived: Arrived) -> bool:
        """Tell whether a devpi-server may be serving another content under the file's name."""
        if self._replace or self.target.size_of(file.relpath) is None:
            return False
        return self.target.digest_of(file.relpath, "sha256") != arrived.sha256


@dataclass(frozen=True, slots=True)
class _Nothing:
    """The answer of a source that has no files."""

    reason: str
    status: int = 404
    length: int | None = None
    own: bool = True

    @property
    def chunks(self) -> Iterator[bytes]:
        """No content."""
        return iter(())


class NoSource:
    """Where files come from if there is no primary to ask: nowhere.

    reason: why a file that is asked for is not there.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def download(self, relpath: str) -> AbstractContextManager[_Nothing]:  # noqa: ARG002
        """Say that the file is not there."""
        return nullcontext(_Nothing(self._reason))

    def check(self) -> None:
        """Do nothing: that there is nowhere to ask is known."""
