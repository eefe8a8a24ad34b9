"""Requests by http.client: an answer means what it means to httpx's own transport."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Self

import httpx
import pytest

from replisync.errors import PrimaryRefused, PrimaryUnreachable
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from replisync.primary.transport import Transport
from tests.support.ports import free_port
from tests.support.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-DEVPI-SERIAL: 7\r\n\r\nhello"
TIMEOUTS = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}


class Server:
    """Plays a script: for each connection, what it answers to its requests; then it closes it.

    A `None` keeps the connection open without an answer until the test ends. What an answer has behind a
    `PAUSE` is sent when the client was given time to read what is before it.
    """

    PAUSE = b"<pause>"

    def __init__(self, *script: list[bytes | None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[list[bytes]] = []
        self.sent = 0  # pieces of answers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends a wait for clients
        self._thread.join(5)
        self._listener.close()

    def _play(self) -> None:
        players = []
        for number, answers in enumerate(self._script):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            self.requests.append([])
            players.append(threading.Thread(target=self._serve, args=(connection, number, answers)))
            players[-1].start()
        for player in players:
            player.join(5)

    def _serve(self, connection: socket.socket, number: int, answers: list[bytes | None]) -> None:
        # A client may go away at any time.
        with connection, suppress(ConnectionError):
            for answer in answers:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    request += piece
                self.requests[number].append(request)
                if answer is None:
                    self._over.wait(10)
                    return
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in answer.split(self.PAUSE):
                    if piece:
                        connection.sendall(piece)
                    self.sent += 1
                    self._over.wait(0.05)


def request(port: int, target: bytes = b"/root/dev/a%25b", **timeouts: float) -> httpx.Request:
    """Return a request as `Origin` makes them."""
    extensions = {"target": target, "timeout": {**TIMEOUTS, **timeouts}}
    headers = {"Host": f"127.0.0.1:{port}", "Authorization": "Bearer t"}
    return httpx.Request("GET", f"http://127.0.0.1:{port}/", headers=headers, extensions=extensions)


def read(response: httpx.Response) -> bytes:
    """Return the body of an answer, and let go of its connection."""
    with closing(response):
        return b"".join(response.iter_raw())


@contextmanager
def asking(server: Server) -> Iterator[Transport]:
    """Hold a transport, while the server plays."""
    with server, closing(Transport(None)) as transport:
        yield transport


def test_an_answer_is_what_the_server_sent() -> None:
    server = Server([OK])
    with asking(server) as transport:
        response = transport.handle_request(request(server.port))
        assert response.status_code == 200
        assert response.headers["x-devpi-serial"] == "7"
        assert read(response) == b"hello"
    [[sent]] = server.requests
    assert sent.startswith(b"GET /root/dev/a%25b HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer t\r\n" in sent


def test_connections_are_used_again() -> None:
    server = Server([OK, OK.replace(b"hello", b"again"), OK])
    with asking(server) as transport:
        found = [read(transport.handle_request(request(server.port))) for _ in range(3)]
    assert found == [b"hello", b"again", b"hello"]
    assert [len(requests) for requests in server.requests] == [3]


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length:4\r\nX-Odd: \t a\xe9b \t\r\n\r\ngone",
        b"HTTP/1.1 503 \r\nContent-Length: 3\r\nConnection: close\r\n\r\nbye",
        OK.replace(b"\r\n\r\nhello", b"\r\n" + Server.PAUSE + b"\r\nhel" + Server.PAUSE + b"lo"),
        OK + b"HTTP/1.1 200 OK\r\n",
        OK[:-1],
        OK[:20],
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\n folded\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX : a\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\x00b\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nnothing\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK,
        b"HTTP/1.1 503 Own Words\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
    ids=lambda answer: answer[:80].decode("latin-1"),
)
def test_an_answer_means_what_it_means_to_httpx(answer: bytes) -> None:
    def outcome(transport: httpx.BaseTransport, port: int) -> object:
        try:
            response = transport.handle_request(request(port))
            status = response.status_code, response.reason_phrase
            return status, response.headers.multi_items(), read(response)
        except httpx.TransportError as err:
            return type(err)

    found = []
    for make in (httpx.HTTPTransport, lambda: Transport(None)):
        with Server([answer]) as server, closing(make()) as transport:
            found.append(outcome(transport, server.port))
    assert found[0] == found[1]


def test_a_chunk_of_a_length_below_zero_is_no_content() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"])
    with asking(server) as transport, pytest.raises(httpx.RemoteProtocolError, match="below zero"):
        read(transport.handle_request(request(server.port)))


class Late(dict[str, object]):
    """The extensions of a request that is written when something has been done.

    work: what is done once the connection stands.
    """

    def __init__(self, extensions: dict[str, object], work: Callable[[], None]) -> None:
        super().__init__(extensions)
        self._work = work

    def get(self, name: str, default: object = None) -> object:
        """Do the work, and return an extension."""
        self._work()
        return super().get(name, default)


def test_what_a_server_says_before_it_reads_the_request_is_its_answer() -> None:
    """As of a proxy that is full: it answers, and resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Transport(None)) as transport:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        asked = request(listener.getsockname()[1])
        asked.extensions = Late(dict(asked.extensions), answer)
        response = transport.handle_request(asked)
    assert (response.status_code, response.reason_phrase) == (503, "Full")
    response.close()


def test_a_connection_that_the_server_closed_meanwhile_does_not_matter() -> None:
    server = Server([OK], [OK])
    with asking(server) as transport:
        for _ in range(2):
            assert read(transport.handle_request(request(server.port))) == b"hello"
    assert len(server.requests) == 2


def test_a_connection_that_is_closed_in_answer_to_a_request_is_asked_again_once() -> None:
    server = Server([OK, b""], [b""], [OK])
    with asking(server) as transport:
        assert read(transport.handle_request(request(server.port))) == b"hello"
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            transport.handle_request(request(server.port))
        assert read(transport.handle_request(request(server.port))) == b"hello"


def test_what_comes_unasked_is_no_answer_to_the_next_request() -> None:
    """As of a server that says that it waited long enough; or of an answer that has two ends."""
    stray = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
    server = Server([OK + Server.PAUSE + stray, OK], [OK])
    with asking(server) as transport:
        assert read(transport.handle_request(request(server.port))) == b"hello"
        wait_until(lambda: server.sent == 2, 5, "the answer to nothing")
        response = transport.handle_request(request(server.port))
        assert (response.status_code, read(response)) == (200, b"hello")
    assert [len(requests) for requests in server.requests] == [1, 1]


@pytest.mark.parametrize("read_first", [True, False], ids=["begun", "not begun"])
def test_an_answer_that_nobody_reads_to_its_end_ends_its_connection(read_first: bool) -> None:
    server = Server([OK.replace(b"hello", b"he" + Server.PAUSE + b"llo"), OK], [OK])
    with asking(server) as transport:
        response = transport.handle_request(request(server.port))
        if read_first:
            assert next(response.iter_raw()) == b"he"
        response.close()
        assert read(transport.handle_request(request(server.port))) == b"hello"
    assert [len(requests) for requests in server.requests] == [1, 1]


def test_an_answer_that_another_thread_reads_is_closed_at_once() -> None:
    """As a run does that is told to end while the primary is silent."""
    server = Server([OK.replace(b"hello", b"he"), None])
    begun, ended = threading.Event(), threading.Event()
    with asking(server) as transport:
        response = transport.handle_request(request(server.port, read=60.0))

        def reading() -> None:
            with suppress(httpx.TransportError):
                for _ in response.iter_raw():
                    begun.set()
            ended.set()

        threading.Thread(target=reading, daemon=True).start()
        assert begun.wait(10)
        closing_it = threading.Thread(target=response.close, daemon=True)
        closing_it.start()
        closing_it.join(10)
        assert not closing_it.is_alive()
        assert ended.wait(10)


def test_a_head_without_an_end_is_not_read_for_ever() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000])
    with asking(server) as transport, pytest.raises(httpx.RemoteProtocolError, match="more than"):
        transport.handle_request(request(server.port))


def test_silence_is_a_timeout_before_the_answer_and_within_it() -> None:
    server = Server([None], [OK[:-3], None])
    with asking(server) as transport:
        with pytest.raises(httpx.ReadTimeout):
            transport.handle_request(request(server.port, read=0.2))
        response = transport.handle_request(request(server.port, read=2.0))
        with pytest.raises(httpx.ReadTimeout):
            read(response)


def test_nobody_there_is_a_connect_error() -> None:
    with closing(Transport(None)) as transport, pytest.raises(httpx.ConnectError, match="refused"):
        transport.handle_request(request(free_port()))


def test_a_port_that_is_silent_to_a_handshake_is_told_from_one_that_cannot_be_reached() -> None:
    """As a server without TLS is, which waits for the end of a request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        for expected, error in (("", PrimaryRefused), ("known", PrimaryUnreachable)):
            link = Link(silence=0.2)
            with (
                Primary(url, None, uuid="r", expected=expected, link=link) as one,
                pytest.raises(error) as caught,
            ):
                one.hello()
            assert type(caught.value) is error
            assert "give --primary-url with http://" in str(caught.value.hint)
