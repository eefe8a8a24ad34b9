"""The protocols through which the loop uses the parts that do I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from replisync.changelog.plan import WantedFile
from replisync.devpi.entries import ChangelogEntry
from replisync.devpi.keys import Digest


@dataclass(frozen=True, slots=True)
class Download:
    """An answer to a request for a file.

    status: the HTTP status.
    length: the announced number of bytes, or None.
    chunks: the content.
    own: for a failure, whether the primary itself answered.
    reason: for a failure, the cause in one clause.
    retry_after: the seconds that the server asks to wait before the next request, or None.
    """

    status: int
    length: int | None
    chunks: Iterator[bytes]
    own: bool = True
    reason: str = ""
    retry_after: float | None = None


class FileSource(Protocol):
    """A source of files."""

    def download(self, relpath: str, first: int = 0) -> AbstractContextManager[Download]:
        """Request a file, or its content from byte `first` on: status 206 if that is possible."""
        ...

    def check(self) -> None:
        """Check that files can be requested at all; raise if not."""
        ...


class LocalSource(Protocol):
    """Files that may lie on this machine; see standby.files.local.LocalFiles."""

    def links(self, path: str) -> bool:
        """Return whether to link a file instead of copying it."""
        ...

    def paths(self, file: WantedFile) -> Iterator[str]:
        """Yield paths at which a file may lie, the likeliest first."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A file that arrived in the staging folder; durable after `hold` or `place`.

    name: its name there.
    size: in bytes.
    sha256: of its content.
    """

    name: str
    size: int
    sha256: str


class Receiving(Protocol):
    """Brings files to their places."""

    @property
    def group(self) -> int:
        """The largest useful number of files to sync together."""
        ...

    def receive(
        self, relpath: str, chunks: Iterable[bytes], digest: Digest | None, length: int | None
    ) -> Received:
        """Receive and check a file, without a name yet; durable after `hold` or `place`."""
        ...

    def take(self, relpath: str, path: str, digest: Digest | None, *, link: bool) -> Received | None:
        """Take a file of this machine without a name yet, if it has the digest."""
        ...

    def hold(self, names: Sequence[str]) -> None:
        """Sync received files, still without names."""
        ...

    def discard(self, names: Iterable[str]) -> None:
        """Remove received files that cannot be placed."""
        ...

    def place(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give received files their names, durably: pairs of relpath and name in the staging folder."""
        ...

    def sync(self, relpath: str) -> None:
        """Sync a file that another process put in place."""
        ...

    def size_of(self, relpath: str) -> int | None:
        """Return the size of a file in place."""
        ...

    def sizes_of(self, relpaths: Sequence[str]) -> dict[str, int]:
        """Return the sizes of those of these files that are in place."""
        ...

    def size_problem(self, size: int) -> str:
        """Return why a file of this size cannot be placed; "" if it can."""
        ...

    def obstacle(self, relpath: str) -> str:
        """Return why a file cannot be placed; "" if it can."""
        ...

    def digest_of(self, relpath: str, algorithm: str) -> str | None:
        """Return the digest of a file in place."""
        ...


class Settling(Protocol):
    """Makes the moves that commits demand."""

    def retain(self, relpath: str, serial: int, *, keep: bool = False) -> str | None:
        """Retain a file that a serial drops or replaces."""
        ...

    def remove(self, relpath: str) -> None:
        """Remove a file from its place."""
        ...

    def sync_moves(self) -> None:
        """Sync retentions and removals."""
        ...

    def staged(self, name: str) -> bool:
        """Return whether a received file has no name yet."""
        ...

    def place(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give received files their names, durably: pairs of relpath and name in the staging folder."""
        ...

    def clean_staging(self, keep: Iterable[str]) -> None:
        """Remove leftovers of interrupted runs."""
        ...


class RetainedFiles(Protocol):
    """The files that commits dropped or replaced."""

    def size_retained(self, name: str) -> int | None:
        """Return the size of a retained file."""
        ...

    def read_retained(self, name: str) -> Iterator[bytes]:
        """Yield the content of a retained file."""
        ...

    def rename_retained(self, names: Mapping[str, str]) -> None:
        """Rename retained files."""
        ...

    def drop_retained(self, names: Iterable[str]) -> None:
        """Remove retained files."""
        ...


class FileStore(Receiving, Settling, RetainedFiles, Protocol):
    """The target's files; see standby.files.disk.DiskFiles."""

    def correct_size(self, relpath: str) -> None:
        """Correct the size that is recorded with a file's content."""
        ...


class Progress(Protocol):
    """Shows the progress of long work."""

    def stage(self, name: str, total: int | None, unit: str, /, **facts: object) -> None:
        """Begin a stage of work; with its total, if known, and facts for a log."""
        ...

    def advance(self, done: int, size: int = 0) -> None:
        """Report units, and bytes, as done."""
        ...

    def receiving(self, name: str, done: int, length: int | None) -> None:
        """Report the bytes of an incomplete file that have arrived, from any thread."""
        ...

    def received(self, name: str) -> None:
        """Report that no more bytes of a file arrive, from any thread."""
        ...

    def following(self, url: str, serial: int) -> None:
        """Report that all changes of a primary up to a serial are here."""
        ...


class Log(Protocol):
    """A structured log, such as structlog's bound loggers."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


class StopFlag(Protocol):
    """Returns whether to stop; a threading.Event is one."""

    def is_set(self) -> bool:
        """Return whether to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until asked to stop, or for `timeout` seconds; return whether to stop."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """The server's identity, as the headers of every answer say.

    serial: its last serial.
    before_6_13: it is older than devpi-server 6.13, which introduced the word primary.
    """

    uuid: str
    serial: int
    before_6_13: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """An answer with changes.

    hello: the server; its serial is the one that the answer goes up to.
    groups: the entries as they arrive; empty if there is nothing new.
    new_connection: the answer came over another connection than the previous one, so that another server, or
        the same one with other data, may be at the address now.
    """

    hello: Hello
    groups: Iterator[list[ChangelogEntry]]
    new_connection: bool


class History(Protocol):
    """A changelog to follow: a primary's, or one on this machine."""

    @property
    def disconnected(self) -> bool:
        """Whether the next answer comes over another connection than the last one."""
        ...

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return the server's hello, and its entry at a serial, or None."""
        ...

    def changes(self, first: int, *, poll: bool) -> AbstractContextManager[Changes]:
        """Return the changes from a serial on."""
        ...
