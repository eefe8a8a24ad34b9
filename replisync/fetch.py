"""Downloads: a bounded number at a time, an outcome for each file.

A worker takes the next file when it is free, so nothing queues up. Nothing here decides what an outcome
means for a serial, and nothing knows of databases.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from replisync.errors import (
    BrokenStream,
    PrimaryTimeout,
    PrimaryUnreachable,
    ReplisyncError,
    Stopped,
    WrongContent,
)
from replisync.keys import fetch_problem
from replisync.plan import WantedFile
from replisync.ports import Arrived, FileSource, FileStore, StopFlag

# How often somebody who waits for downloads looks whether to stop.
_LOOK_SECONDS = 0.2


# What stands for the status of an answer that broke off or never came.
_BROKEN = 504


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is durably here.

    size: in bytes.
    staged: its name in the staging folder, where another content is still in its place; else None.
    downloaded: whether it came over the network.
    """

    file: WantedFile
    size: int
    staged: str | None = None
    downloaded: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that the primary did not give.

    status: of HTTP; 0 where nobody can ask for it at all.
    reason: in one clause.
    """

    file: WantedFile
    status: int
    reason: str


Outcome = Fetched | Refused


class Fetcher:
    """A pool of downloads.

    replace: whether a file may take the place of another content at once. It may where no devpi-server can
        be reading, as in a clone that is not complete; else it stays staged until its serial is committed.
    """

    def __init__(
        self, source: FileSource, target: FileStore, *, threads: int, stop: StopFlag, replace: bool = False
    ) -> None:
        self._source = source
        self._target = target
        self._threads = threads
        self._stop = stop
        self._replace = replace

    def fetch(self, files: Iterable[WantedFile]) -> Iterator[Outcome]:
        """Yield the outcome for each file as it is there, in no order; fewer where we are to stop.

        Raises the first error that is no outcome (the disk, the connection, a refusal of all requests),
        after the other downloads ended.
        """
        todo = iter(files)
        lock = threading.Lock()
        outcomes: SimpleQueue[Outcome | ReplisyncError | BaseException | None] = SimpleQueue()
        failed = threading.Event()

        def work() -> None:
            try:
                while not (failed.is_set() or self._stop.is_set()):
                    with lock:
                        file = next(todo, None)
                    if file is None:
                        break
                    outcomes.put(self.fetch_one(file))
            except BaseException as err:  # noqa: BLE001 - handed over to the caller's thread
                failed.set()
                outcomes.put(err)
            finally:
                outcomes.put(None)

        workers = [
            threading.Thread(target=work, name=f"fetch-{number}", daemon=True)
            for number in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        error: BaseException | None = None
        try:
            running = len(workers)
            while running:
                try:
                    outcome = outcomes.get(timeout=_LOOK_SECONDS)
                except Empty:
                    if self._stop.is_set():
                        break
                    continue
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, BaseException):
                    error = error or outcome
                else:
                    yield outcome
        finally:
            failed.set()
            # One that hangs on a silent primary must not keep us from ending; it can do no harm, since
            # what it brings has no name before it is complete, and counts for nothing before a commit.
            for worker in workers:
                while worker.is_alive():
                    worker.join(_LOOK_SECONDS)
                    if self._stop.is_set():
                        break
        if error is not None:
            raise error

    def fetch_one(self, file: WantedFile) -> Outcome:
        """Bring one file here, unless it is here already.

        Raises PrimaryUnreachable, PrimaryRefused or LocalFailure.
        """
        size = self._size_in_place(file)
        if size is not None:
            return Fetched(file, size, downloaded=False)
        problem = fetch_problem(file.relpath)
        if problem:
            return Refused(file, 0, problem)
        try:
            return self._download(file)
        except (PrimaryTimeout, BrokenStream) as err:
            # This one file may be what hangs: it must be seen, and the others must go on.
            return Refused(file, _BROKEN, err.why)

    def _download(self, file: WantedFile) -> Outcome:
        with self._source.download(file.relpath) as answer:
            if answer.status >= 500 and answer.status not in (500, 502):
                raise PrimaryUnreachable(
                    f"fetch of {file.relpath}", f"it answered {answer.status}", serial=file.serial
                )
            if answer.status != 200:
                return Refused(file, answer.status, f"the primary answered {answer.status}")
            try:
                chunks = self._until_stopped(answer.chunks)
                arrived = self._target.receive(file.relpath, chunks, file.digest, answer.length)
            except WrongContent as err:
                return Refused(file, answer.status, err.why)
        return self._settle(file, arrived)

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise Stopped("fetching of files", "a signal asked to end it")
            yield chunk

    def _size_in_place(self, file: WantedFile) -> int | None:
        if file.digest is None:
            return None
        size = self._target.size_of(file.relpath)
        if (
            size is None
            or self._target.digest_of(file.relpath, file.digest.algorithm) != file.digest.hexdigest
        ):
            return None
        # It may be the work of a devpi-server of the hot standby, which does not sync what it stores.
        self._target.sync(file.relpath)
        return size

    def _settle(self, file: WantedFile, arrived: Arrived) -> Fetched:
        in_use = not self._replace and self._target.size_of(file.relpath) is not None
        if in_use and self._target.digest_of(file.relpath, "sha256") != arrived.sha256:
            # The commit will promise this content, so it must survive whatever happens after it.
            self._target.hold(arrived.name)
            return Fetched(file, arrived.size, staged=arrived.name)
        self._target.place(file.relpath, arrived.name)
        return Fetched(file, arrived.size)
