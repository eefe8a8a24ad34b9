"""Every exception that httpx can raise becomes one of our errors, in one place."""

import errno
import socket
import ssl
from collections.abc import Callable

import httpx
import pytest

from replisync.devpi.tokens import TokenSigner
from replisync.errors import (
    BrokenStream,
    LocalFailure,
    PrimaryRefused,
    PrimaryTimeout,
    PrimaryUnreachable,
    ReplisyncError,
    UsageError,
)
from replisync.primary.client import Primary
from replisync.primary.connection import Link

# What an operator is told for each of httpx's exceptions.
MEANING: dict[str, type[ReplisyncError]] = {
    "HTTPError": PrimaryUnreachable,
    "RequestError": PrimaryUnreachable,
    "TransportError": PrimaryUnreachable,
    "TimeoutException": PrimaryTimeout,
    "ConnectTimeout": PrimaryTimeout,
    "ReadTimeout": PrimaryTimeout,
    "WriteTimeout": PrimaryTimeout,
    "PoolTimeout": PrimaryTimeout,
    "NetworkError": PrimaryUnreachable,
    "ConnectError": PrimaryUnreachable,
    "ReadError": BrokenStream,
    "WriteError": PrimaryUnreachable,
    "CloseError": PrimaryUnreachable,
    "ProtocolError": PrimaryUnreachable,
    "LocalProtocolError": PrimaryUnreachable,
    "RemoteProtocolError": BrokenStream,
    "ProxyError": PrimaryUnreachable,
    "UnsupportedProtocol": UsageError,
    "DecodingError": PrimaryUnreachable,
    "TooManyRedirects": PrimaryUnreachable,
    "HTTPStatusError": PrimaryUnreachable,
    "StreamError": BrokenStream,
    "StreamConsumed": BrokenStream,
    "StreamClosed": BrokenStream,
    "ResponseNotRead": BrokenStream,
    "RequestNotRead": BrokenStream,
    "InvalidURL": UsageError,
}
# No request of ours can lead to it: cookies are not used.
IMPOSSIBLE = {"CookieConflict"}

EXCEPTIONS = {
    name: value
    for name, value in vars(httpx).items()
    if isinstance(value, type) and issubclass(value, Exception)
}
REQUEST = httpx.Request("GET", "http://p/")


def made(name: str) -> Exception:
    """Return an exception of httpx as httpx makes it."""
    cls = EXCEPTIONS[name]
    if issubclass(cls, httpx.HTTPStatusError):
        return cls("it failed", request=REQUEST, response=httpx.Response(500))
    if name in ("StreamConsumed", "StreamClosed", "ResponseNotRead", "RequestNotRead"):
        return cls()
    return cls("it failed")


class Failing(httpx.BaseTransport):
    """A transport that only fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - httpx's own
        """Fail."""
        raise self.error


def test_httpx_has_no_exception_that_nobody_thought_of() -> None:
    assert set(EXCEPTIONS) == set(MEANING) | IMPOSSIBLE


def poll(one: Primary) -> None:
    """Ask for changes."""
    with one.changes(3, poll=True):
        pass


def download(one: Primary) -> None:
    """Ask for a file."""
    with one.download("u/i/x.zip"):
        pass


@pytest.mark.parametrize("act", [Primary.hello, lambda one: one.entry(3), poll, download])
@pytest.mark.parametrize("name", sorted(MEANING))
def test_each_exception_has_its_meaning(name: str, act: Callable[[Primary], object]) -> None:
    signer = TokenSigner(b"k" * 16, lambda: 1.8e9)
    error = made(name)
    with (
        Primary("http://p/", signer, uuid="r", link=Link(transport=Failing(error))) as one,
        pytest.raises(ReplisyncError) as caught,
    ):
        act(one)
    assert type(caught.value) is MEANING[name]
    assert caught.value.__cause__ is error
    assert caught.value.why
    assert signer.token("r") not in str(caught.value)


def unverified(code: int, message: str) -> ssl.SSLCertVerificationError:
    """Return what Python raises for a certificate that OpenSSL does not accept."""
    found = ssl.SSLCertVerificationError(1, f"certificate verify failed: {message}")
    found.verify_code, found.verify_message = code, message
    return found


def plain_text() -> ssl.SSLError:
    """Return the error of a handshake that is answered in plain text."""
    incoming = ssl.MemoryBIO()
    ours = ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="p")
    with pytest.raises(ssl.SSLWantReadError):
        ours.do_handshake()
    incoming.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        ours.do_handshake()
    return caught.value


def test_an_exception_without_words_is_named() -> None:
    with (
        Primary("http://p/", None, uuid="r", link=Link(transport=Failing(httpx.ConnectError("")))) as one,
        pytest.raises(PrimaryUnreachable, match="ConnectError"),
    ):
        one.hello()


@pytest.mark.parametrize(
    ("cause", "error", "hint"),
    [
        (unverified(18, "self-signed certificate"), PrimaryRefused, "SSL_CERT_FILE"),
        (unverified(10, "certificate has expired"), PrimaryRefused, "renew it"),
        (unverified(62, "Hostname mismatch"), PrimaryRefused, "renew it"),
        (OSError(errno.EMFILE, "Too many open files"), LocalFailure, "ulimit -n"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            PrimaryUnreachable,
            "is reachable",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), PrimaryRefused, "check the name"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), PrimaryUnreachable, "is reachable"),
        (plain_text(), PrimaryRefused, "with http://"),
    ],
)
def test_the_cause_of_a_failed_connection_decides_what_to_do(
    cause: OSError, error: type[ReplisyncError], hint: str
) -> None:
    failure = httpx.ConnectError(str(cause))
    failure.__cause__ = cause
    with (
        Primary("https://p/", None, uuid="r", link=Link(transport=Failing(failure))) as one,
        pytest.raises(error) as caught,
    ):
        one.hello()
    assert type(caught.value) is error
    assert hint in caught.value.hint


def test_a_real_refused_connection_is_unreachable() -> None:
    with (
        Primary("http://127.0.0.1:1/", None, uuid="r") as one,
        pytest.raises(PrimaryUnreachable, match="refused"),
    ):
        one.hello()


def test_proxies_of_the_environment_do_not_see_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that answers would show up as another error than a refused connection to the primary."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:2/")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:2/")
    with (
        Primary("http://127.0.0.1:1/", None, uuid="r") as one,
        pytest.raises(PrimaryUnreachable, match="refused"),
    ):
        one.hello()
