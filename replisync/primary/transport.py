"""HTTP/1.1 for httpx by the standard library's http.client: a fraction of the cost for many small files.

http.client reads the answers. This module adds connections that stay open between requests, a time limit for
the head of an answer, the rejection of malformed heads, and httpx's errors.
"""

import io
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any

import httpx

# A connection that was idle for longer may be dead without notice; httpx's own transport has the same limit.
_IDLE_SECONDS = 5.0

# A small file arrives in one piece with its head.
_BUFFER_BYTES = 32 * 1024
_READ_BYTES = 256 * 1024

_FOLD = re.compile(r"\r?\n[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(r"[0-9]{1,18}")
_MALFORMED = (FirstHeaderLineIsContinuationDefect, InvalidHeaderDefect, MissingHeaderBodySeparatorDefect)


class HandshakeTimeout(httpx.ConnectTimeout):
    """The server accepted the connection, but did not answer the TLS handshake."""


def _with_tls(own: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(own, server_hostname=host)
    except TimeoutError as err:
        raise HandshakeTimeout(str(err)) from err


class Transport(httpx.BaseTransport):
    """Sends requests to one server.

    context: trusted CAs, and our certificate; only needed for `https://`.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._idle: list[_Connection] = []  # the last one used is taken first

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, to the target in its extensions, if any.

        Raises httpx.TransportError.
        """
        connection = self._reusable()
        if connection is not None:
            try:
                return self._answer(connection, request)
            except _Gone:
                pass  # it was closed while idle, which says nothing about the server
        try:
            return self._answer(_Connection(request, self._context), request)
        except _Gone as err:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.") from err

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _reusable(self) -> "_Connection | None":
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _answer(self, connection: "_Connection", request: httpx.Request) -> httpx.Response:
        try:
            answer = connection.exchange(request)
            headers, reason = _headers(answer), _value(answer.reason).encode("latin-1")
        except BaseException:
            connection.close()
            raise
        return httpx.Response(
            answer.status,
            headers=headers,
            stream=_Body(connection, answer, self._idle),
            extensions={"network_stream": connection, "reason_phrase": reason},
        )


def _headers(answer: HTTPResponse) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer.

    Raises httpx.RemoteProtocolError for headers that http.client accepts, but no server sends.
    """
    lengths = set(answer.msg.get_all("content-length", ()))
    defect = any(isinstance(one, _MALFORMED) for one in answer.msg.defects)
    uncertain = len(lengths) > 1 or not all(_LENGTH.fullmatch(one.strip()) for one in lengths)
    # Any other coding would be taken for content.
    coded = len(answer.msg.get_all("transfer-encoding", ())) != answer.chunked
    if defect or uncertain or coded:
        raise httpx.RemoteProtocolError("the head of the answer is malformed")
    return [(name.encode("latin-1"), _value(value).encode("latin-1")) for name, value in answer.getheaders()]


def _value(value: str) -> str:
    if not value.isprintable():
        value = _FOLD.sub(" ", value)
        if _CONTROL.search(value):
            raise httpx.RemoteProtocolError("a header of the answer has control characters")
    return value.strip(" \t")


class _Gone(Exception):
    """The server closed a connection before it answered."""


@contextmanager
def _as_httpx(what: str) -> Iterator[None]:
    """Translate errors of a connection.

    what: "Read" or "Write".
    """
    try:
        yield
    except TimeoutError as err:
        raise getattr(httpx, f"{what}Timeout")(str(err)) from err
    except HTTPException as err:
        raise httpx.RemoteProtocolError(str(err) or type(err).__name__) from err
    except OSError as err:
        raise getattr(httpx, f"{what}Error")(str(err)) from err


class _Connection:
    """A connection to the server of a request, for one thread at a time."""

    def __init__(self, request: httpx.Request, context: ssl.SSLContext | None) -> None:
        url, seconds = request.url, request.extensions["timeout"]["connect"]
        host, secure = url.raw_host.decode("ascii"), url.scheme == "https"
        try:
            own = socket.create_connection((host, url.port or (443 if secure else 80)), seconds)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                own = _with_tls(own, context or ssl.create_default_context(), host)
        except TimeoutError as err:
            raise httpx.ConnectTimeout(str(err)) from err
        except (OSError, UnicodeError) as err:
            raise httpx.ConnectError(str(err)) from err
        self._socket = own
        self._reads = _Reads(own)
        self._poll = select.poll()
        self._poll.register(own, select.POLLIN)
        self._used = time.monotonic()

    def is_quiet(self) -> bool:
        """Return whether it can take a request: unrequested data is its end, or an answer to nothing."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        return time.monotonic() - self._used < _IDLE_SECONDS and not self._poll.poll(0)

    def exchange(self, request: httpx.Request) -> HTTPResponse:
        """Send a request; return the answer, whose body is yet to be read.

        Raises _Gone or httpx.TransportError.
        """
        seconds = request.extensions["timeout"]
        target = request.extensions.get("target", request.url.raw_path)
        lines = [b"%s: %s\r\n" % header for header in request.headers.raw]
        head = b"%s %s HTTP/1.1\r\n%s\r\n" % (request.method.encode(), target, b"".join(lines))
        self._socket.settimeout(seconds["write"])
        # A server that closes the connection without reading the request may have said why.
        with _as_httpx("Write"), suppress(ConnectionError, ssl.SSLError):
            self._socket.sendall(head)
        answer = HTTPResponse(self._reads, method=request.method)  # type: ignore[arg-type]
        with self._reads.head(seconds["read"]), _as_httpx("Read"):
            try:
                answer.begin()
                while 101 < answer.status < 200:  # the answer is still to come
                    answer.headers = None  # type: ignore[assignment] # else `begin` has nothing to do
                    answer.begin()
            except (RemoteDisconnected, ConnectionError) as err:
                raise _Gone from err
        return answer

    def keep(self, idle: "list[_Connection]") -> None:
        """Release it for the next request."""
        self._used = time.monotonic()
        idle.append(self)

    def close(self) -> None:
        """Close it; end what another thread reads from it."""
        with suppress(OSError):
            # The system's own: that of TLS would first take its state from under the other thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()


class _Reads(io.RawIOBase):
    """A socket for http.client with a time limit for each read, and one for the head as a whole."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._until: float | None = None  # when the head must be complete; None outside of one
        self._begun = False  # whether part of the head has arrived

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file to read an answer from."""
        return io.BufferedReader(self, _BUFFER_BYTES)

    def close(self) -> None:
        """Release the socket for the next answer."""

    def readable(self) -> bool:
        return True

    @contextmanager
    def head(self, seconds: float | None) -> Iterator[None]:
        """Limit all reads in this context to `seconds` together, and each later read to the same."""
        self._own.settimeout(seconds)
        self._begun = False
        self._until = None if seconds is None else time.monotonic() + seconds
        yield
        self._until = None
        self._own.settimeout(seconds)
        self._begun = False

    def readinto(self, buffer: Any) -> int:
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the head of the answer is not complete")
            self._own.settimeout(left)
        count = self._own.recv_into(buffer)
        if not count and self._begun:
            raise HTTPException("Server disconnected within the head of its answer.")
        self._begun = self._until is not None
        return count


class _Body(httpx.SyncByteStream):
    """The body of an answer.

    idle: receives the connection once all of it was read.
    """

    def __init__(self, connection: _Connection, answer: HTTPResponse, idle: list[_Connection]) -> None:
        self._connection = connection
        self._answer = answer
        self._idle = idle
        self._complete = answer.length == 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with _as_httpx("Read"):
                piece = self._answer.read1(_READ_BYTES)
            if self._answer.chunked and (self._answer.chunk_left or 0) < 0:
                raise httpx.RemoteProtocolError("a chunk of the answer has a length below zero")
            if not piece:
                break
            yield piece
        if self._answer.length:
            raise httpx.RemoteProtocolError(
                f"peer closed connection without sending complete message body "
                f"({self._answer.length} bytes are missing)"
            )
        self._complete = True

    def close(self) -> None:
        """Release the connection for the next request, if this answer is complete."""
        if self._complete and not self._answer.will_close:
            self._complete = False
            self._answer.close()
            self._connection.keep(self._idle)
        else:
            # Not the answer: a thread that reads it holds its lock, and would be waited for.
            self._connection.close()
