"""What the loop needs of the parts that do I/O, as protocols: the only thing that it knows of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from replisync.changelog.plan import WantedFile
from replisync.devpi.entries import ChangelogEntry
from replisync.devpi.keys import Digest


class ChunkSource(Protocol):
    """An answer to the request of a file; see primary.Download."""

    @property
    def status(self) -> int: ...
    @property
    def own(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def length(self) -> int | None: ...
    @property
    def chunks(self) -> Iterator[bytes]: ...


class FileSource(Protocol):
    """Where files come from."""

    def download(self, relpath: str) -> AbstractContextManager[ChunkSource]:
        """Ask for a file."""
        ...

    def check(self) -> None:
        """Make sure that files can be asked for at all; raise why they cannot."""
        ...


class LocalSource(Protocol):
    """Where files may lie on this machine; see seed.local.LocalFiles."""

    def links(self, path: str) -> bool:
        """Tell whether a file is to be taken as a link."""
        ...

    def paths(self, file: WantedFile) -> Iterator[str]:
        """Yield where a file may lie, the likeliest first."""
        ...


class Arrived(Protocol):
    """A file in the staging folder; see filestore.disk.Received."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class FileStore(Protocol):
    """Where files go; see filestore.disk.DiskFiles."""

    @property
    def group(self) -> int:
        """How many files it likes to make durable together at most."""
        ...

    def receive(
        self, relpath: str, chunks: Iterable[bytes], digest: Digest | None, length: int | None
    ) -> Arrived:
        """Take and check what arrives, under no name yet; durable after `hold` or `place`."""
        ...

    def take(self, relpath: str, path: str, digest: Digest | None, *, link: bool) -> Arrived | None:
        """Take a file of this machine, if it has the digest, under no name yet."""
        ...

    def hold(self, names: Sequence[str]) -> None:
        """Make what arrived survive a crash under no name."""
        ...

    def discard(self, names: Iterable[str]) -> None:
        """Remove what arrived and can have no place."""
        ...

    def place(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give what arrived its names, durably: pairs of relpath and the name in the staging folder."""
        ...

    def sync(self, relpath: str) -> None:
        """Make a file that somebody else put in place durable."""
        ...

    def size_of(self, relpath: str) -> int | None:
        """Return the size of a file in place."""
        ...

    def sizes_of(self, relpaths: Sequence[str]) -> dict[str, int]:
        """Return the sizes of those of some files that are in place."""
        ...

    def size_problem(self, size: int) -> str:
        """Return why a file of so many bytes can have no place, or "" where it can."""
        ...

    def obstacle(self, relpath: str) -> str:
        """Return why a file can have no place, or "" where it can."""
        ...

    def digest_of(self, relpath: str, algorithm: str) -> str | None:
        """Return the digest of a file in place."""
        ...

    def put_aside(self, relpath: str, serial: int, *, keep: bool = False) -> str | None:
        """Retain a file that a serial drops or replaces."""
        ...

    def sync_moves(self) -> None:
        """Make what was put aside or removed durable."""
        ...

    def size_aside(self, name: str) -> int | None:
        """Return the size of what was put aside."""
        ...

    def read_aside(self, name: str) -> Iterator[bytes]:
        """Yield what was put aside."""
        ...

    def rename_aside(self, names: Mapping[str, str]) -> None:
        """Give what was put aside other names."""
        ...

    def mend_size(self, relpath: str) -> None:
        """Note the size beside a file's content that the content has."""
        ...

    def remove(self, relpath: str) -> None:
        """Remove a file from its place."""
        ...

    def staged(self, name: str) -> bool:
        """Tell whether what arrived is still under no name."""
        ...

    def clean_staging(self, keep: Iterable[str]) -> None:
        """Remove what interrupted runs left."""
        ...

    def forget_aside(self, names: Iterable[str]) -> None:
        """Remove what was retained."""
        ...


class Progress(Protocol):
    """Who shows how far a long piece of work is."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin a stage of work; its total where it is known."""
        ...

    def advance(self, done: int, size: int = 0) -> None:
        """Report that so many more units, of so many bytes, are done."""
        ...


class Log(Protocol):
    """A structured log, as structlog's bound loggers are."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


class StopFlag(Protocol):
    """Tells whether somebody asked us to end; a threading.Event is one."""

    def is_set(self) -> bool:
        """Tell whether to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told to stop, or for so many seconds; tell whether to stop."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """What the headers of any answer say about the server.

    serial: its last serial.
    before_6_13: it does not know the word primary yet.
    """

    uuid: str
    serial: int
    before_6_13: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """An answer with changes.

    hello: who answers. Its serial is the one that the answer goes up to.
    groups: the entries as they arrive; empty where there is nothing new.
    new_connection: the answer did not come over the connection of the one before, so another server, or
        the same one with other data, may be behind the address now.
    """

    hello: Hello
    groups: Iterator[list[ChangelogEntry]]
    new_connection: bool


@dataclass(frozen=True, slots=True)
class Download:
    """An answer to the request of a file.

    status: of HTTP.
    length: the bytes that it announces; None where it does not.
    chunks: the content.
    own: whether it is the word of the primary itself, where it is no success.
    reason: why it is no success, in one clause.
    """

    status: int
    length: int | None
    chunks: Iterator[bytes]
    own: bool = True
    reason: str = ""


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
