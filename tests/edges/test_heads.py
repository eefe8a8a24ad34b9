"""An answer whose head never ends is a silent primary, however often a byte of it comes."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from replisync.errors import PrimaryTimeout
from replisync.primary.client import Primary
from replisync.primary.connection import Link

DRIP_SECONDS = 0.05
SILENCE = 0.4


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server whose answers begin, and go on with one byte of a header at a time."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            # A minute: longer than any silence that is asked for, and who waits for the end gets no timeout.
            for _ in range(1_200):
                if over.wait(DRIP_SECONDS):
                    return
                connection.sendall(b"a")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask_hello(one: Primary) -> None:
    """Ask who is there, through httpx."""
    one.hello()


def ask_file(one: Primary) -> None:
    """Ask for a file, through the transport for small ones."""
    with one.download("u/i/+f/a/b/x.zip"):
        pass


@pytest.mark.parametrize("ask", [ask_hello, ask_file])
def test_a_head_that_drips_is_given_up_as_silence(dripping: str, ask: Callable[[Primary], None]) -> None:
    began = time.monotonic()
    with (
        Primary(dripping, None, uuid="r", link=Link(silence=SILENCE)) as one,
        pytest.raises(PrimaryTimeout, match="no answer in time"),
    ):
        ask(one)
    assert time.monotonic() - began >= SILENCE
