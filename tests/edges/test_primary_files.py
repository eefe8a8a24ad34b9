"""Files over HTTP: the request, what each status means, and how an answer may break."""

from collections.abc import Callable

import httpx
import pytest

from replisync import __version__
from replisync.devpi.tokens import TokenSigner
from replisync.errors import BrokenStream, PrimaryRefused, WrongHistory
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from tests.fakes import Body, ScriptedPrimary, answers

URL = "http://primary.example:3141/root"


def primary(handler: Callable[[httpx.Request], httpx.Response]) -> Primary:
    """Return a primary whose answers a handler makes."""
    signer = TokenSigner(b"k" * 16, lambda: 1.8e9)
    return Primary(
        URL, signer, uuid="r", expected="primary", link=Link(transport=httpx.MockTransport(handler))
    )


def get(one: Primary, relpath: str = "u/i/x.zip") -> tuple[int, int | None, bytes]:
    """Return status, announced length and content of a file."""
    with one.download(relpath) as answer:
        return answer.status, answer.length, b"".join(answer.chunks)


@pytest.mark.parametrize(
    ("relpath", "target"),
    [
        ("u/i/+f/abc/def/x-1.0.zip", b"/root/u/i/%2Bf/abc/def/x-1.0.zip"),
        ("u/i/a b.zip", b"/root/u/i/a%20b.zip"),
        ("u/i/100%.zip", b"/root/u/i/100%25.zip"),
        ("u/i/%20.zip", b"/root/u/i/%2520.zip"),
        ("u/i/%2F.zip", b"/root/u/i/%252F.zip"),
        ("u/i/a?b=1.zip", b"/root/u/i/a%3Fb%3D1.zip"),
        ("u/i/a;b&c,d=e.zip", b"/root/u/i/a%3Bb%26c%2Cd%3De.zip"),
        ("u/i/é-日本.zip", b"/root/u/i/%C3%A9-%E6%97%A5%E6%9C%AC.zip"),
        ("u/i/e\u0301.zip", b"/root/u/i/e%CC%81.zip"),
        ('u/i/a\\b{}|^`<>".zip', b"/root/u/i/a%5Cb%7B%7D%7C%5E%60%3C%3E%22.zip"),
        ("u/i/~'!()*@$:.zip", b"/root/u/i/~%27%21%28%29%2A%40%24%3A.zip"),
        ("u/i/a\r\nX: y.zip", b"/root/u/i/a%0D%0AX%3A%20y.zip"),
    ],
)
def test_any_name_is_asked_for_as_the_path_that_it_is(relpath: str, target: bytes) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, headers=answers(), stream=Body(b"x"))

    with primary(handle) as one:
        get(one, relpath)
    (request,) = seen
    assert request.extensions.get("target", request.url.raw_path) == target
    assert request.url.host == "primary.example"
    assert request.headers["Host"] == "primary.example:3141"


def test_a_request_says_who_asks_and_wants_the_bytes_as_they_are() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, headers=answers(), stream=Body(b"x"))

    with primary(handle) as one:
        get(one)
        get(one)
    for request in seen:
        # devpi-server answers with JSON where that may be accepted.
        assert request.headers["Accept"] == "*/*"
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["X-DEVPI-REPLICA-UUID"] == "r"
        assert request.headers["X-DEVPI-REPLICA-FILEREPL"] == "YES"
        assert request.headers["User-Agent"] == f"devpi-replisync/{__version__}"
        assert request.headers["Authorization"].startswith("Bearer ")


def test_content_comes_in_pieces_with_the_length_that_was_announced() -> None:
    body = Body(b"one", b"two", b"three")
    headers = answers(content_length="11")
    with (
        primary(lambda _request: httpx.Response(200, headers=headers, stream=body)) as one,
        one.download("x") as answer,
    ):
        assert answer.length == 11
        assert next(answer.chunks) == b"one"
        assert body.sent == 3
        assert b"".join(answer.chunks) == b"twothree"


@pytest.mark.parametrize("length", ["", "-1", "²", "1.5", "many", "9" * 5000])
def test_a_length_that_is_no_number_is_not_known(length: str) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=[(b"Content-Length", length.encode("latin-1"))], stream=Body(b"x"))

    with primary(handle) as one:
        assert get(one)[1] is None


@pytest.mark.parametrize("status", [404, 410, 302, 401, 403, 500, 502, 503, 400])
def test_the_primarys_own_word_about_a_file_is_returned(status: int) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            status, headers=answers(serial=5), stream=Body(b"http://user:secret@up.example")
        )

    with primary(handle) as one, one.download("u/i/x.zip") as answer:
        assert (answer.status, answer.own) == (status, True)
        assert answer.reason.startswith(f"the primary answered {status}")
        assert "secret" not in answer.reason


@pytest.mark.parametrize("status", [404, 410, 302, 401, 403, 451, 429, 500, 502, 503])
@pytest.mark.parametrize("headers", [{}, answers("another")], ids=["a proxy", "another server"])
def test_the_word_of_something_else_about_a_file_is_not_the_primarys(
    status: int, headers: dict[str, str]
) -> None:
    """It is returned too, with what tells who said it: it may be this one file's."""
    more = {"Location": "https://elsewhere.example/login", "Server": "wall\x1b[31m"}
    page = b"<html><style>b { color: red }</style><h1>No\x07 such\nthing</h1>" + b"x " * 500

    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={**more, **headers}, stream=Body(page))

    with primary(handle) as one, one.download("u/i/x.zip") as answer:
        assert (answer.status, answer.own) == (status, False)
        assert str(status) in answer.reason
        assert answer.reason.isprintable()
        assert len(answer.reason) < 250
        if headers:
            assert "another devpi-server" in answer.reason
        else:
            assert (
                "without the headers of a devpi-server (Server: wall [31m): No such thing x" in answer.reason
            )


def test_the_word_of_a_replica_about_a_file_is_not_the_primarys() -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        headers = {**answers(), "X-DEVPI-UUID": "another"}
        return httpx.Response(404, headers=headers, stream=Body(b"x"))

    with primary(handle) as one, one.download("u/i/x.zip") as answer:
        assert not answer.own
        assert answer.reason == "a replica (UUID another) answered 404"


def test_a_no_to_us_says_why() -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, headers=answers(), stream=Body(b"Authorization malformed."))

    with primary(handle) as one, one.download("u/i/x.zip") as answer:
        assert "does not accept our secret" in answer.reason


def test_a_primary_is_there_when_it_says_who_it_is() -> None:
    uuid = "primary"

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path.endswith("/+api")
        return httpx.Response(200, headers=answers(uuid), stream=Body(b"{}"))

    with primary(handle) as one:
        one.check()
        uuid = "another"
        with pytest.raises(WrongHistory):
            one.check()


@pytest.mark.parametrize(
    ("first", "content_range", "status"),
    [(4, "bytes 4-9/10", 206), (4, "bytes 0-9/10", 416), (4, None, 416), (0, "bytes 0-9/10", 416)],
)
def test_only_the_part_that_was_asked_for_is_one(first: int, content_range: str | None, status: int) -> None:
    """What else a cache may deliver is a refusal, with what it said."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers.get("range") == (f"bytes={first}-" if first else None)
        ranges = {"Content-Range": content_range} if content_range else {}
        return httpx.Response(206, headers=answers() | ranges, stream=Body(b"x"))

    with primary(handle) as one, one.download("u/i/x.zip", first) as answer:
        assert answer.status == status
        assert ("206" in answer.reason) == (status == 416)


def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        headers = answers(location="https://elsewhere.example/x.zip")
        return httpx.Response(302, headers=headers, stream=Body())

    with primary(handle) as one:
        assert get(one)[0] == 302
    assert asked == ["primary.example"]


def test_compression_that_nobody_asked_for_is_refused() -> None:
    headers = answers(content_encoding="gzip")
    with (
        primary(lambda _request: httpx.Response(200, headers=headers, stream=Body(b"x"))) as one,
        pytest.raises(PrimaryRefused, match="compresses"),
    ):
        get(one)


@pytest.mark.parametrize(
    "error",
    [httpx.ReadError("reset"), httpx.RemoteProtocolError("incomplete message")],
    ids=lambda error: type(error).__name__,
)
def test_content_that_breaks_off_is_a_broken_stream(error: Exception) -> None:
    with (
        primary(lambda _request: httpx.Response(200, headers=answers(), stream=Body(b"x", error))) as one,
        pytest.raises(BrokenStream, match=r"cannot fetch u/i/x\.zip"),
    ):
        get(one)


def test_an_answer_is_closed_whatever_happens_to_it() -> None:
    bodies = [Body(b"x"), Body(b"x"), Body(b"x", httpx.ReadError("reset"))]
    left = iter(bodies)

    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=answers(), stream=next(left))

    def fail(one: Primary) -> None:
        with one.download("x") as answer:
            next(answer.chunks)
            raise ZeroDivisionError

    with primary(handle) as one:
        with one.download("x"):
            pass
        with pytest.raises(ZeroDivisionError):
            fail(one)
        with pytest.raises(BrokenStream):
            get(one)
    assert [body.closed for body in bodies] == [True] * 3


def test_a_scripted_primary_serves_files_by_their_own_names() -> None:
    server = ScriptedPrimary()
    server.files = {"u/i/é #%?.zip": b"content", "u/i/gone": 410}
    one = Primary(
        URL.removesuffix("/root"), None, uuid="r", expected="primary", link=Link(transport=server.transport())
    )
    with one:
        assert get(one, "u/i/é #%?.zip") == (200, 7, b"content")
        with one.download("u/i/gone") as answer:
            assert answer.status == 410
