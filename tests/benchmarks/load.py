"""The plain load generator: GETs a list of files over keep-alive connections and throws the bodies away.

One thread and an event loop over bare sockets, so that next to nothing is taken from the server. It runs as
a process of its own: `python -m tests.benchmarks.load HOST PORT CONNECTIONS < relpaths` prints the seconds.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

_END_OF_HEADERS = b"\r\n\r\n"
_BLOCK = 1 << 18


class _Connection:
    """One connection with one request in flight."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._head = b""
        self._missing = 0

    def ask(self) -> bool:
        """Send the next request; tell whether there was one."""
        request = next(self._requests, None)
        if request is None:
            return False
        self._head = b""
        self._missing = -1
        self.socket.sendall(request)
        return True

    def receive(self) -> bool:
        """Take what has come; tell whether the answer is complete."""
        data = self.socket.recv(_BLOCK)
        if not data:
            raise SystemExit("the server closed a connection")
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._head += data
            head, found, body = self._head.partition(_END_OF_HEADERS)
            if found:
                self._missing = _content_length(head) - len(body)
        return self._missing == 0


def _content_length(head: bytes) -> int:
    status, *lines = head.split(b"\r\n")
    if b" 200 " not in status:
        raise SystemExit(f"the server answered {status.decode()}")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise SystemExit("an answer without content-length")


def run(address: tuple[str, int], connections: int, relpaths: list[str]) -> float:
    """Return the seconds that the downloads took."""
    host = f"{address[0]}:{address[1]}"
    head = f"HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\r\n"
    requests = iter([f"GET /{quote(relpath)} {head}".encode() for relpath in relpaths])
    begin = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = _Connection(address, requests)
            if connection.ask():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _events in selector.select():
                connection = key.data
                if connection.receive() and not connection.ask():
                    selector.unregister(connection.socket)
                    connection.socket.close()
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(run((sys.argv[1], int(sys.argv[2])), int(sys.argv[3]), sys.stdin.read().splitlines()))
