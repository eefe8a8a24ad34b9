"""A proxy that passes requests to a server and damages answers as told, at run time."""

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.faults import Fault
from tests.support.ports import free_port
from tests.support.proxy_body import Body

__all__ = ["Fault", "Proxy", "Request"]

UPSTREAM_SECONDS = 120
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect"})

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]


class Proxy:
    """The proxy on its own port; also a context manager that stops it."""

    def __init__(self, target_url: str) -> None:
        """Start to pass everything on to the server."""
        self.target_url = target_url
        self.port = free_port()
        self.requests: list[Request] = []
        self.bytes_sent = 0
        # Answer 502 for a server that is gone and keep the client's connection, as reverse proxies do.
        self.bad_gateway = False
        # Replace the Date of answers by the time of our own clock, as nginx does.
        self.own_dates = False
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._handlers: set[_Handler] = set()
        self._server: _Server | None = None
        self.accept()

    def __enter__(self) -> Self:
        """Return the running proxy."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the proxy."""
        self.stop()

    @property
    def url(self) -> str:
        """The root URL that clients use instead of the server's."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> Fault:
        """Let a fault strike from the next request on; the first matching one wins."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault; stalled answers go on."""
        with self._changed:
            if fault in self._faults:
                self._faults.remove(fault)
            self._changed.notify_all()

    def clear(self) -> None:
        """End all faults."""
        with self._changed:
            self._faults.clear()
            self._changed.notify_all()

    @contextmanager
    def fault(self, **effects: Any) -> Iterator[Fault]:
        """Let a fault strike for the length of a with block."""
        fault = self.add(Fault(**effects))
        try:
            yield fault
        finally:
            self.remove(fault)

    def look_like_before_streaming(self) -> Fault:
        """Answer as a server before 6.5.0 does: the changelog in blocks, never as a stream."""
        return self.add(Fault(path=r"/\+changelog/\d+-", request_headers={"Accept": "*/*"}))

    def look_like_before_blocks(self) -> Fault:
        """Answer as a server before 4.9.0 does: single changelog entries only."""
        return self.add(Fault(path=r"/\+changelog/\d+-", request_path="/+changelog/no-such-endpoint"))

    def refuse(self) -> None:
        """Close the port, so that connections are refused, and break the open ones."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self.drop_connections()

    def accept(self) -> None:
        """Open the port again."""
        if self._server is None:
            self._server = _Server(("127.0.0.1", self.port), _Handler)
            self._server.proxy = self
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def drop_connections(self) -> None:
        """Break all open connections."""
        with self._changed:
            handlers = list(self._handlers)
            self._handlers.clear()
            self._changed.notify_all()
        for handler in handlers:
            handler.break_off()

    def stop(self) -> None:
        """Close everything."""
        self.clear()
        self.refuse()

    def count(self, prefix: str) -> int:
        """Return how many requests had a path that starts with the prefix."""
        return sum(request.path.startswith(prefix) for request in list(self.requests))

    def paths(self, prefix: str = "/") -> list[str]:
        """Return the paths of all requests that start with the prefix, in their order."""
        return [request.path for request in list(self.requests) if request.path.startswith(prefix)]

    def fault_for(self, path: str) -> Fault | None:
        """Return the fault that strikes a request."""
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(path)), None)

    def hold(self, fault: Fault, handler: "_Handler") -> None:
        """Return when the fault was removed or the connection dropped."""
        with self._changed:
            self._changed.wait_for(lambda: fault not in self._faults or handler not in self._handlers)

    def pause(self, seconds: float, handler: "_Handler") -> None:
        """Wait so long, unless the connection is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: handler not in self._handlers, timeout=seconds)

    def opened(self, handler: "_Handler") -> None:
        """Remember a connection for `drop_connections`."""
        with self._lock:
            self._handlers.add(handler)

    def closed(self, handler: "_Handler") -> None:
        """Forget a connection."""
        with self._lock:
            self._handlers.discard(handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore broken connections: to break them is the purpose."""


class _Handler(BaseHTTPRequestHandler):
    """The connection of one client, with one connection of its own to the server."""

    server: _Server
    protocol_version = "HTTP/1.1"
    # One segment per answer's head and block: no waiting for more (Nagle).
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.proxy = self.server.proxy
        self.upstream = self._new_upstream()
        self.proxy.opened(self)

    def finish(self) -> None:
        self.proxy.closed(self)
        self.upstream.close()
        with suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, HTTPException):
            # The server or the client went away: the other side shall notice.
            self.cut(reset=True)

    def break_off(self) -> None:
        """Break both connections, from another thread."""
        for connection in (self.connection, self.upstream.sock):
            if connection is not None:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def write(self, data: bytes) -> None:
        """Send a piece of the content to the client."""
        self.proxy.bytes_sent += len(data)
        self.wfile.write(data)

    def pause(self, seconds: float) -> None:
        """Wait, unless the connection is dropped."""
        self.proxy.pause(seconds, self)

    def hold(self, fault: Fault) -> None:
        """Wait until the fault is removed or the connection dropped."""
        self.proxy.hold(fault, self)

    def cut(self, *, reset: bool) -> None:
        """Close the client's connection in the middle of whatever it is."""
        self.close_connection = True
        with suppress(OSError):
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    def pass_on(self) -> None:
        """Answer one request of any method."""
        self.proxy.requests.append(Request(self.command, self.path, dict(self.headers.items())))
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
            return
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_for(self.path) or Fault()
        if fault.delay_seconds:
            self.pause(fault.delay_seconds)
        if fault.answers_itself:
            self._answer_myself(fault)
            return
        try:
            response = self._ask_server(content, fault)
        except (OSError, HTTPException):
            if not self.proxy.bad_gateway:
                raise
            self._answer_myself(Fault(status=502))
            return
        self._relay(response, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_PUSH = pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer_myself(self, fault: Fault) -> None:
        # As with a reverse proxy whose server went away: the client's connection lives on, and its next
        # request goes to whoever is behind the address by then.
        self.upstream.close()
        self.upstream = self._new_upstream()
        if fault.status is None:
            self.cut(reset=fault.reset)
            return
        self.send_response_only(fault.status)
        head = [("Content-Length", str(len(fault.body))), ("Content-Type", "text/plain")]
        if fault.location is not None:
            head.append(("Location", fault.location))
        self._send_headers(_replaced(head, fault.headers))
        self.wfile.write(fault.body)

    def _new_upstream(self) -> HTTPConnection:
        target = urlsplit(self.proxy.target_url)
        return HTTPConnection(target.hostname or "", target.port, timeout=UPSTREAM_SECONDS)

    def _ask_server(self, content: bytes, fault: Fault) -> HTTPResponse:
        headers = _replaced(list(self.headers.items()), fault.request_headers)
        path = fault.request_path or self.path
        self.upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.upstream.putheader(name, value)
        if content or self.command in ("POST", "PUT", "PATCH"):
            self.upstream.putheader("Content-Length", str(len(content)))
        self.upstream.endheaders(content or None)
        return self.upstream.getresponse()

    def _relay(self, response: HTTPResponse, fault: Fault) -> None:
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        length = response.getheader("Content-Length")
        body = Body(response, fault, self)
        if length is not None:
            headers.append(("Content-Length", str(int(length) + fault.content_length_delta)))
        elif body.expected is None:
            headers.append(("Transfer-Encoding", "chunked"))
        self.send_response_only(response.status, response.reason)
        dates = {"Date": self.date_time_string()} if self.proxy.own_dates else {}
        self._send_headers(_replaced(headers, {**dates, **fault.headers}))
        body.send()
        if fault.changes_length:
            self.cut(reset=False)

    def _send_headers(self, headers: Headers) -> None:
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


def _replaced(headers: Headers, changes: Mapping[str, str | None]) -> Headers:
    changed = {name.lower() for name in changes}
    kept = [(name, value) for name, value in headers if name.lower() not in changed]
    return kept + [(name, value) for name, value in changes.items() if value is not None]
