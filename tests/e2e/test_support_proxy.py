"""The fault-injecting proxy does what its faults say, and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.content import build_zip
from tests.support.proxy import Fault, Proxy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

CONTENT = build_zip({"data": bytes(range(256)) * 1_000})
FILE = "/files/some/file.zip"


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    """A proxy before a server with one file."""
    upstream.add_file("some", "file.zip", CONTENT)
    with Proxy(upstream.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx.Client]:
    """A client of the proxy."""
    with httpx.Client(base_url=proxy.url, timeout=10, trust_env=False) as client:
        yield client


def read_until_error(client: httpx.Client) -> tuple[bytes, type[Exception] | None]:
    """Return the content that arrives and the error that ends it."""
    received = b""
    try:
        with client.stream("GET", FILE) as response:
            for block in response.iter_raw():
                received += block
    except httpx.TransportError as error:
        return received, type(error)
    return received, None


def test_passes_answers_and_counts_requests(proxy: Proxy, client: httpx.Client) -> None:
    """Without a fault everything arrives as it is."""
    assert client.get(FILE).content == CONTENT
    assert client.get(FILE).content == CONTENT
    assert client.get("/nothing").status_code == 404
    assert client.head(FILE).headers["content-length"] == str(len(CONTENT))
    assert (proxy.count("/files"), proxy.count("/")) == (3, 4)


@pytest.mark.parametrize("offset", [0, 1, 70_000, len(CONTENT) - 1])
def test_cuts_at_the_byte(proxy: Proxy, client: httpx.Client, offset: int) -> None:
    """Exactly so many bytes arrive before the connection ends."""
    with proxy.fault(path="/files", cut_after=offset):
        assert read_until_error(client) == (CONTENT[:offset], httpx.RemoteProtocolError)
    assert read_until_error(client) == (CONTENT, None)


def test_resets(proxy: Proxy, client: httpx.Client) -> None:
    """The client sees a reset before the answer and within it."""
    with proxy.fault(reset=True), pytest.raises(httpx.ReadError):
        client.get(FILE)
    with proxy.fault(reset_after=1_000):
        assert read_until_error(client)[1] is httpx.ReadError
    with proxy.fault(disconnect=True), pytest.raises(httpx.RemoteProtocolError):
        client.get(FILE)


def test_damages_bytes(proxy: Proxy, client: httpx.Client) -> None:
    """One bit, a few bytes, or too many bytes."""
    with proxy.fault(flip_at=70_000):
        damaged = client.get(FILE).content
    assert [at for at, byte in enumerate(damaged) if byte != CONTENT[at]] == [70_000]
    with proxy.fault(garbage_at=len(CONTENT) - 2):
        assert client.get(FILE).content == CONTENT[:-2] + b"\xde\xad"
    with proxy.fault(content_length_delta=1):
        assert read_until_error(client) == (CONTENT, httpx.RemoteProtocolError)
    with proxy.fault(content_length_delta=-1):
        assert len(client.get(FILE).content) == len(CONTENT) - 1


def test_answers_itself_for_some_requests(proxy: Proxy, client: httpx.Client, upstream: Upstream) -> None:
    """A status is answered the given number of times, after the given number of requests."""
    fault = proxy.add(Fault(path="/files", status=503, skip=1, times=2, headers={"Retry-After": "1"}))
    assert [client.get(FILE).status_code for _ in range(4)] == [200, 503, 503, 200]
    assert (fault.done, upstream.count("/files")) == (2, 2)
    with proxy.fault(status=302, location="http://127.0.0.1:9/elsewhere"):
        assert client.get(FILE).headers["location"] == "http://127.0.0.1:9/elsewhere"


def test_changes_headers(proxy: Proxy, client: httpx.Client) -> None:
    """A header is replaced, added or removed."""
    with proxy.fault(headers={"date": "yesterday", "X-New": "1", "Content-Type": None}):
        headers = client.get(FILE).headers
    assert (headers["Date"], headers["X-New"], headers.get("Content-Type")) == ("yesterday", "1", None)


def test_stalls_until_the_fault_is_removed(proxy: Proxy, client: httpx.Client) -> None:
    """An answer stands still in the middle and is completed afterwards."""
    fault = proxy.add(Fault(stall_after=1_000))
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(client.get(FILE).content))
    reader.start()
    wait_until(lambda: proxy.bytes_sent >= 1_000, 60, "the first bytes are sent")
    assert not received
    proxy.remove(fault)
    reader.join(60)
    assert received == [CONTENT]


def test_stalled_clients_run_into_their_timeout(proxy: Proxy, client: httpx.Client) -> None:
    """The client's own timeout ends a stall."""
    with proxy.fault(stall_after=10), pytest.raises(httpx.ReadTimeout):
        client.get(FILE, timeout=0.2)


def test_throttles(proxy: Proxy, client: httpx.Client) -> None:
    """The content arrives at the given pace."""
    started = time.monotonic()
    with proxy.fault(bytes_per_second=len(CONTENT) * 2):
        assert client.get(FILE).content == CONTENT
    assert time.monotonic() - started > 0.4


def test_refuses_connections_and_accepts_again(proxy: Proxy, client: httpx.Client) -> None:
    """The port is closed, open connections too, and both come back."""
    assert client.get(FILE).status_code == 200
    proxy.refuse()
    with pytest.raises(httpx.TransportError):
        client.get(FILE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 5)
    proxy.accept()
    assert client.get(FILE).status_code == 200


def test_a_server_that_is_gone_breaks_the_connection(client: httpx.Client, upstream: Upstream) -> None:
    """The proxy makes up no answer when the server does not give one."""
    upstream.stop()
    with pytest.raises(httpx.TransportError):
        client.get(FILE)
