"""A bound on the time that the head of an answer takes, for httpx's own transport.

httpx gives each read so many seconds, so that a header that comes byte by byte would hold us for ever.
"""

import time
from collections.abc import Iterable
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

_END = b"\r\n\r\n"


class HeadBoundTransport(httpx.HTTPTransport):
    """httpx's own transport, in which a whole head has as long as one read.

    context: whom TLS trusts; None for the usual trust.
    connections: how many there are at most.
    """

    def __init__(self, context: SSLContext | None, connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        context = context or httpx.create_ssl_context()
        super().__init__(verify=context, limits=limits)
        self._pool: httpcore.ConnectionPool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(),
        )


class _Backend(httpcore.NetworkBackend):
    """Connections whose answers have a bounded head."""

    def __init__(self) -> None:
        self._own = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._own.connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """One connection; what follows a request is a head, up to its empty line."""

    def __init__(self, own: httpcore.NetworkStream) -> None:
        self._own = own
        self._head: bytes | None = b""  # what came of the head; None behind its end
        self._until: float | None = None  # when it must be complete

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._head, self._until = b"", None
        self._own.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._head is None or timeout is None:
            return self._own.read(max_bytes, timeout)
        now = time.monotonic()
        self._until = self._until or now + timeout
        if now >= self._until:
            raise httpcore.ReadTimeout("the head of the answer is not complete")
        piece = self._own.read(max_bytes, self._until - now)
        self._head += piece
        while self._head is not None and _END in self._head:
            # One with a status below 200 says that the answer is still to come.
            interim = self._head.startswith(b"HTTP/1.1 1")
            self._head = self._head.partition(_END)[2] if interim else None
        return piece

    def close(self) -> None:
        self._own.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._own.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._own.get_extra_info(info)
