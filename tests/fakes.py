"""Parts that are handed in instead of the real ones: they record, or fail where a test wants it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import unquote

import httpx
from devpi_server.fileutil import dumps
from sqlalchemy import Connection

from replisync.devpi.wire import encode
from replisync.errors import LocalFailure
from replisync.standby.database.postgres import PostgresStore
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.database.store import Store
from replisync.system.stop import Stop

_T = TypeVar("_T")


class RecordingStop(Stop):
    """A stop flag whose waits are recorded and take no time.

    after: how many waits there are before somebody asks to stop; None for never.
    """

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._after = after

    def wait(self, timeout: float | None = None) -> bool:
        """Record the wait and return at once."""
        self.waits.append(-1.0 if timeout is None else timeout)
        if self._after is not None and len(self.waits) >= self._after:
            self.set()
        return self.is_set()


class RecordingLog:
    """A log that keeps its lines: (level, event, values)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **values: Any) -> None:
        """Keep a line."""
        self.lines.append(("debug", event, values))

    def info(self, event: str, **values: Any) -> None:
        """Keep a line."""
        self.lines.append(("info", event, values))

    def warning(self, event: str, **values: Any) -> None:
        """Keep a line."""
        self.lines.append(("warning", event, values))

    def error(self, event: str, **values: Any) -> None:
        """Keep a line."""
        self.lines.append(("error", event, values))


class NoProgress:
    """Progress that nobody looks at."""

    def stage(self, name: str, total: int | None, unit: str, /, **facts: object) -> None:
        """Begin a stage of work."""

    def advance(self, done: int, size: int = 0) -> None:
        """Get on with it."""

    def receiving(self, name: str, done: int, length: int | None) -> None:
        """Receive more of a file."""

    def received(self, name: str) -> None:
        """Have all of a file."""

    def following(self, url: str, serial: int) -> None:
        """Be at the primary's serial."""


class RecordingProgress(NoProgress):
    """Progress whose stages are kept, and how much was done since the last one began."""

    def __init__(self) -> None:
        """Begin with none."""
        self.stages: list[tuple[str, int | None, str]] = []
        self.done = 0

    def stage(self, name: str, total: int | None, unit: str, /, **facts: object) -> None:  # noqa: ARG002
        """Keep a stage."""
        self.stages.append((name, total, unit))
        self.done = 0

    def advance(self, done: int, size: int = 0) -> None:  # noqa: ARG002 - as the protocol has it
        """Count."""
        self.done += done


class Died(BaseException):
    """The process ended here; nothing may catch this as an error."""


def failure(name: str) -> BaseException:
    """Return how a call fails that may succeed when it is repeated."""
    if name.startswith("primary"):
        return httpx.ReadError("the connection was lost")
    return LocalFailure(f"cannot call {name}", "the disk did not like it")


class Trap:
    """Count calls of parts that do I/O, and fail in one of them.

    at: which call, from 0, or which of those with a name; None counts only.
    after: whether the call does its work before it fails.
    error: makes what is raised, from the name of the call.
    """

    def __init__(
        self,
        at: int | tuple[str, int] | None = None,
        *,
        after: bool = False,
        error: Callable[[str], BaseException] = Died,
    ) -> None:
        self.names: list[str] = []
        self._at = at
        self._after = after
        self._error = error
        self._lock = Lock()

    @property
    def sprung(self) -> bool:
        """Whether the call that fails was made."""
        if isinstance(self._at, tuple):
            return self.names.count(self._at[0]) > self._at[1]
        return self._at is not None and len(self.names) > self._at

    def call(self, name: str, work: Callable[[], _T]) -> _T:
        """Count a call, and do the work unless it is the one that fails."""
        with self.around(name):
            return work()

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Count what is done in here as one call, which may fail before or after it."""
        with self._lock:
            strikes = self._at in (len(self.names), (name, self.names.count(name)))
            self.names.append(name)
        if strikes and not self._after:
            raise self._error(name)
        yield
        if strikes:
            raise self._error(name)

    def cut(self, name: str, pieces: list[bytes]) -> list[bytes | BaseException]:
        """Return the pieces of a body, or half of them and the failure where this is the call that fails."""
        try:
            with self.around(name):
                pass
        except BaseException as err:  # noqa: BLE001 - it is raised by who reads the body
            return [*pieces[: len(pieces) // 2], err]
        return list(pieces)


class FailingFiles:
    """A file store that passes every call on, but for the one that the trap is set on."""

    def __init__(self, real: object, trap: Trap) -> None:
        self._real = real
        self._trap = trap

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._real, name)
        if not callable(method):
            return method  # type: ignore[no-any-return]

        def call(*args: Any, **options: Any) -> Any:
            return self._trap.call(f"files.{name}", lambda: method(*args, **options))

        return call


class FailingTransactions(Store):
    """Makes transactions of a store fail, before or after their commit, where the trap is set."""

    def __init__(self, *args: Any, trap: Trap, **options: Any) -> None:
        self._trap = trap
        super().__init__(*args, **options)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._trap.around("store.commit"), super()._writing() as connection:
            yield connection
            with self._trap.around("store.in_the_transaction"):
                pass

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._trap.around("store.read"):
            pass
        with super()._reading() as connection:
            yield connection


class FailingStore(FailingTransactions, SqliteStore):
    """One in SQLite."""


class FailingPostgresStore(FailingTransactions, PostgresStore):
    """One in PostgreSQL."""


class Body(httpx.SyncByteStream):
    """The body of an answer, in chunks; an exception among them is raised in its place."""

    def __init__(self, *chunks: bytes | BaseException) -> None:
        self.chunks = chunks
        self.sent = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            self.sent += len(chunk)
            yield chunk

    def close(self) -> None:
        """Remember that nobody reads on."""
        self.closed = True


def answers(uuid: str = "primary", serial: int = 0, **more: str) -> dict[str, str]:
    """Return the headers that every answer of a devpi-server has; underscores in names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {
        "X-DEVPI-PRIMARY-UUID": uuid,
        "X-DEVPI-MASTER-UUID": uuid,
        "X-DEVPI-UUID": uuid,
        "X-DEVPI-SERIAL": str(serial),
        **named,
    }


class ScriptedPrimary:
    """A primary made of entries and files, which answers as devpi-server does.

    entries: stored bytes, by serial.
    files: content by relpath; or in its place a status, or what answers or fails.
    down: whether it answers nothing at all.
    chunk: bytes of each piece of a body.
    began_at: the serial that answers name, which may be one before the last; None for the last.
    """

    def __init__(self, uuid: str = "primary") -> None:
        self.uuid = uuid
        self.entries: list[bytes] = []
        self.files: dict[str, bytes | int | Callable[[], httpx.Response]] = {}
        self.down = False
        self.requests: list[httpx.Request] = []
        self.chunk = 1000
        self.began_at: int | None = None
        self.connection: object = object()
        self.trap = Trap()

    @property
    def serial(self) -> int:
        """The last serial."""
        return len(self.entries) - 1

    def commit(self, changes: dict[str, tuple[str, int, Any]], renames: tuple[str, ...] = ()) -> int:
        """Append an entry; return its serial."""
        self.entries.append(dumps((changes, list(renames))))
        return self.serial

    def transport(self) -> httpx.MockTransport:
        """Return what is handed to `Primary`."""
        return httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        # A file's request has its path beside its URL.
        target = request.extensions.get("target", request.url.raw_path)
        path = unquote(target.decode().partition("?")[0])[1:]
        return self.trap.call(f"primary.{path.partition('/')[0]}", lambda: self._answer(path))

    def _answer(self, path: str) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("connection refused")
        if path == "+api":
            return self._respond(200, b"{}")
        kind, _, which = path.partition("/")
        if kind != "+changelog":
            found = self.files.get(path, 404)
            if callable(found):
                return found()
            return self._respond(found, b"") if isinstance(found, int) else self._respond(200, found)
        first = int(which.rstrip("-"))
        if first > self.serial:
            return self._respond(202 if first == self.serial + 1 else 404, b"can only wait for next serial")
        if not which.endswith("-"):
            return self._respond(200, self.entries[first])
        wanted = enumerate(self.entries[first:], first)
        body = b"".join(part for serial, raw in wanted for part in (encode(serial), raw))
        return self._respond(200, body, content_type="application/x-devpi-replica-changes")

    def _respond(self, status: int, body: bytes, **headers: str) -> httpx.Response:
        pieces = [body[start : start + self.chunk] for start in range(0, len(body), self.chunk)]
        serial = self.serial if self.began_at is None else self.began_at
        return httpx.Response(
            status,
            headers=answers(self.uuid, serial, content_length=str(len(body)), **headers),
            stream=Body(*self.trap.cut("primary.body", pieces)),
            extensions={"network_stream": self.connection},
        )
