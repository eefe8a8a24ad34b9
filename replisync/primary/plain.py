"""Small files over plain HTTP, many of them: a transport for httpx that costs a fraction of httpx's own.

It understands the answers that devpi-server gives, over connections that stay open: a status, headers, and a
body of an announced length. Whatever else comes (an older HTTP, a body in pieces, a header that is not as it
should be) is not judged here: httpx's own transport asks for it again, and is used from then on.
"""

import re
import select
import socket
import time
from collections.abc import Iterator

import httpx

# As httpx: what has been idle for longer may be dead without anybody having said so.
_IDLE_SECONDS = 5.0

_HEAD_BYTES = 100 * 1024
_READ_BYTES = 256 * 1024

_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\x20-\x7e]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")

# These have no body, whatever they announce.
_BODILESS = (204, 304)


class PlainTransport(httpx.BaseTransport):
    """GETs of one `http://` server.

    other: what asks for all that is not understood here; it is closed by its owner.
    """

    def __init__(self, other: httpx.BaseTransport) -> None:
        self._other = other
        self._understood = True
        self._idle: list[_Connection] = []  # the last one used is the first one taken

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request for the target in its extensions, as httpx's own transport does.

        Raises httpx.TransportError.
        """
        if self._understood:
            response = self._ask(request)
            if response is not None:
                return response
            self._understood = False
        return self._other.handle_request(request)

    def close(self) -> None:
        """Let go of all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _ask(self, request: httpx.Request) -> httpx.Response | None:
        """Return the answer; None where it is none that is understood here."""
        connection = self._reusable()
        if connection is not None:
            try:
                return self._answer(connection, request)
            except _Gone:
                pass  # it was closed while it was idle, which says nothing about the server
        try:
            return self._answer(_Connection(request), request)
        except _Gone as err:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.") from err

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

    def _answer(self, connection: "_Connection", request: httpx.Request) -> httpx.Response | None:
        try:
            head, rest = connection.exchange(request)
            found = _parse(head)
        except BaseException:
            connection.close()
            raise
        if found is None:
            connection.close()
            return None
        status, headers, length, keep = found
        body = _Body(connection, rest, length, self._idle if keep else None)
        return httpx.Response(status, headers=headers, stream=body)


class _Gone(Exception):
    """The server closed a connection before it answered."""


class _Connection:
    """A connection to the server of a request. It belongs to one thread at a time."""

    def __init__(self, request: httpx.Request) -> None:
        url, timeouts = request.url, request.extensions["timeout"]
        try:
            self._socket = socket.create_connection(
                (url.raw_host.decode("ascii"), url.port or 80), timeouts["connect"]
            )
        except TimeoutError as err:
            raise httpx.ConnectTimeout(str(err)) from err
        except OSError as err:
            raise httpx.ConnectError(str(err)) from err
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._patience = timeouts["read"]
        self._socket.settimeout(self._patience)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._used = time.monotonic()

    def is_quiet(self) -> bool:
        """Tell whether it can take a request: what came unasked is the end, or an answer to nothing."""
        return time.monotonic() - self._used < _IDLE_SECONDS and not self._poll.poll(0)

    def exchange(self, request: httpx.Request) -> tuple[bytes, bytes]:
        """Send a request; return the head of the answer, and what came of its body with it.

        Raises _Gone or httpx.TransportError.
        """
        lines = [b"%s: %s\r\n" % header for header in request.headers.raw]
        head = b"GET %s HTTP/1.1\r\n%s\r\n" % (request.extensions["target"], b"".join(lines))
        try:
            self._socket.sendall(head)
        except TimeoutError as err:
            raise httpx.WriteTimeout(str(err)) from err
        except ConnectionError as err:
            raise _Gone from err
        except OSError as err:
            raise httpx.WriteError(str(err)) from err
        answer = b""
        began = time.monotonic()
        while True:
            try:
                piece = self._receive_head(began)
            except httpx.ReadError as err:
                if answer:
                    raise
                raise _Gone from err
            if not piece:
                if answer:
                    raise httpx.RemoteProtocolError("Server disconnected within the head of its answer.")
                raise _Gone
            answer = answer + piece if answer else piece
            end = answer.find(b"\r\n\r\n")
            if end >= 0:
                return answer[:end], answer[end + 4 :]
            if len(answer) > _HEAD_BYTES:
                raise httpx.RemoteProtocolError(f"the head of the answer has more than {_HEAD_BYTES} bytes")

    def _receive_head(self, began: float) -> bytes:
        """Return what comes of a head, which as a whole has as long as one read."""
        if self._patience is None:
            return self.receive(_READ_BYTES)
        left = began + self._patience - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("the head of the answer is not complete")
        self._socket.settimeout(left)
        try:
            return self.receive(_READ_BYTES)
        finally:
            self._socket.settimeout(self._patience)

    def receive(self, most: int) -> bytes:
        """Return what comes; nothing where the server closed it.

        Raises httpx.ReadTimeout or httpx.ReadError.
        """
        try:
            return self._socket.recv(most)
        except TimeoutError as err:
            raise httpx.ReadTimeout(str(err)) from err
        except OSError as err:
            raise httpx.ReadError(str(err)) from err

    def keep(self, idle: "list[_Connection]") -> None:
        """Leave it to the next request."""
        self._used = time.monotonic()
        idle.append(self)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class _Body(httpx.SyncByteStream):
    """The body of an answer.

    idle: where the connection goes when all of it was read; None where it is to be closed.
    """

    def __init__(
        self, connection: _Connection, first: bytes, length: int, idle: list[_Connection] | None
    ) -> None:
        self._connection = connection
        self._first = first
        self._length = length
        self._idle = idle
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        piece, self._first = self._first, b""
        while True:
            if len(piece) > self._left:
                # What follows was asked for by nobody, and must not be taken for the next answer.
                piece, self._idle = piece[: self._left], None
            self._left -= len(piece)
            if piece:
                yield piece
            if not self._left:
                return
            piece = self._connection.receive(min(self._left, _READ_BYTES))
            if not piece:
                received = self._length - self._left
                raise httpx.RemoteProtocolError(
                    f"peer closed connection without sending complete message body "
                    f"(received {received} bytes, expected {self._length})"
                )

    def close(self) -> None:
        """Leave the connection to the next request where nothing of this answer can come any more."""
        if self._idle is not None and not self._left and not self._first:
            self._connection.keep(self._idle)
            self._idle = None
        else:
            self._connection.close()


def _parse(head: bytes) -> tuple[int, list[tuple[bytes, bytes]], int, bool] | None:
    """Return status, headers, length of the body, and whether the connection stays open.

    None where anything is not as devpi-server writes it.
    """
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    headers: list[tuple[bytes, bytes]] = []
    length = None
    keep = True
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return None
        headers.append((name, value))
        name = name.lower()
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif name == b"connection":
            keep = keep and value.lower() == b"keep-alive"
        elif name == b"transfer-encoding":
            return None
    if status is None or length is None or int(status[1]) in _BODILESS:
        return None
    return int(status[1]), headers, length, keep
