"""What each answer of a primary means: which error, in which words, and that the token goes nowhere else."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest

from replisync import __version__
from replisync.devpi.tokens import TokenSigner
from replisync.errors import (
    CorruptEntry,
    NotThePrimary,
    PrimaryRefused,
    PrimaryUnreachable,
    ReplisyncError,
    WrongHistory,
)
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from tests.fakes import Body, answers

KEY = b"0123456789abcdef"
URL = "http://primary.example/root"

Handler = Callable[[httpx.Request], httpx.Response]


def primary(handler: Handler, *, expected: str = "primary", signed: bool = True, **options: float) -> Primary:
    """Return a primary whose answers a handler makes."""
    signer = TokenSigner(KEY, lambda: 1_800_000_000.0) if signed else None
    transport = httpx.MockTransport(handler)
    return Primary(URL, signer, uuid="replica", expected=expected, link=Link(transport=transport, **options))  # type: ignore[arg-type]


def reply(status: int, text: str = "", headers: dict[str, str] | None = None) -> httpx.Response:
    """Return an answer whose body is yet to be read."""
    return httpx.Response(status, headers=headers, stream=Body(text.encode()))


def always(status: int, text: str = "", **headers: str) -> Handler:
    """Answer every request alike, as a devpi-server."""
    return lambda _request: reply(status, text, answers(serial=5, **headers))


def ask_entry(one: Primary) -> object:
    """Ask for an entry."""
    return one.entry(5)


def ask_changes(one: Primary) -> object:
    """Ask for changes, and read them all."""
    with one.changes(3, poll=False) as changes:
        return list(changes.groups)


def ask_hello(one: Primary) -> object:
    """Ask who is there."""
    return one.hello()


def ask_file(one: Primary) -> object:
    """Ask for a file, and read all of it."""
    with one.download("u/i/+f/a/b/x.zip") as answer:
        return answer.status, b"".join(answer.chunks)


ENTRIES = (ask_entry, ask_changes)
ALL = (ask_hello, *ENTRIES)


def refused(act: Callable[[Primary], object], handler: Handler, **options: str) -> ReplisyncError:
    """Return the error that an answer leads to, after checks that hold for every error."""
    with primary(handler, **options) as one, pytest.raises(ReplisyncError) as caught:  # type: ignore[arg-type]
        act(one)
    token = TokenSigner(KEY, lambda: 1_800_000_000.0).token("replica")
    assert token not in str(caught.value) + repr(caught.value)
    return caught.value


FORBIDDEN = {
    "Authorization malformed.": "does not accept our secret",
    "Wrong authorization value.": "does not accept our identity",
    "Replication endpoint requires a replica identity.": "our token did not reach it",
    "Replication protocol disabled": "its role is not primary",
    "Go away": "it answered 403",
}


@pytest.mark.parametrize("act", ENTRIES)
@pytest.mark.parametrize("text", FORBIDDEN)
def test_a_403_says_what_is_wrong_in_our_words(text: str, act: Callable[[Primary], object]) -> None:
    error = refused(act, always(403, f"<html>{text}</html>"))
    assert type(error) is PrimaryRefused
    assert FORBIDDEN[text] in error.why
    assert error.hint != PrimaryRefused.default_hint


def devpi_headers(own: str, primarys: str, serial: int = 5) -> dict[str, str]:
    """Return the headers of a server: its UUID, and that of its primary."""
    return answers(primarys, serial) | {"X-DEVPI-UUID": own}


@pytest.mark.parametrize(
    ("own", "primarys"), [("primary", "primary"), ("another", "primary"), ("another", "")]
)
def test_nobody_is_told_to_make_a_primary_of_a_replica(own: str, primarys: str) -> None:
    """That would be a second one; a server by itself may become the primary."""
    headers = devpi_headers(own, primarys)
    error = refused(
        ask_entry, lambda _request: reply(403, "Replication protocol disabled", headers), expected=""
    )
    assert type(error) is PrimaryRefused
    assert ("it is a replica" in error.why) == (own == "another")
    assert ("--role primary" in error.hint) == (own == "primary")


def test_a_refusal_that_does_not_say_who_refuses_advises_no_change_of_roles() -> None:
    error = refused(ask_entry, lambda _request: reply(403, "Replication protocol disabled"), expected="")
    assert "--role" not in error.hint


@pytest.mark.parametrize("act", ALL)
@pytest.mark.parametrize("status", [200, 202, 403, 404, 500])
def test_a_replica_in_the_place_of_a_known_primary_may_pass_and_shows_its_serial(
    status: int, act: Callable[[Primary], object]
) -> None:
    """The primary has reached that at least."""
    headers = devpi_headers("another", "primary", 7)
    error = refused(act, lambda _request: reply(status, "x", headers))
    assert type(error) is NotThePrimary
    assert error.transient
    assert "a replica of the primary (UUID another) answers at http://primary.example/root/" in error.why
    assert error.details == {"answered_by": "another", "answered_serial": 7}


@pytest.mark.parametrize("status", [200, 403])
def test_at_the_first_contact_a_replica_is_refused(status: int) -> None:
    for primarys in ("primary", ""):
        headers = devpi_headers("another", primarys)
        error = refused(ask_hello, lambda _request: reply(status, "x", headers), expected="")  # noqa: B023
        assert type(error) is PrimaryRefused
        assert "it is a replica, not the primary itself" in error.why


def test_a_replica_that_has_not_met_its_primary_shows_no_serial_of_it() -> None:
    error = refused(ask_hello, lambda _request: reply(200, "x", devpi_headers("another", "")))
    assert type(error) is NotThePrimary
    assert error.details == {"answered_by": "another"}


def test_our_own_standby_is_not_the_primary() -> None:
    """Its devpi-server serves requests only, under the name of the primary."""
    error = refused(ask_hello, lambda _request: reply(200, "x", devpi_headers("replica", "primary")))
    assert type(error) is NotThePrimary
    assert "our own standby answers" in error.why


def test_a_replica_of_another_primary_is_another_history() -> None:
    error = refused(ask_hello, lambda _request: reply(200, "x", devpi_headers("another", "foreign")))
    assert type(error) is WrongHistory


@pytest.mark.parametrize("act", ENTRIES)
@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599, 408, 425, 429])
def test_a_failure_of_the_server_may_pass(status: int, act: Callable[[Primary], object]) -> None:
    for headers in ({}, {"content_type": "text/html"}):
        assert type(refused(act, always(status, "oops", **headers))) is PrimaryUnreachable


@pytest.mark.parametrize("act", ALL)
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_failure_of_a_proxy_before_the_server_may_pass_too(
    status: int, act: Callable[[Primary], object]
) -> None:
    error = refused(act, lambda _request: reply(status, "Bad Gateway"))
    assert type(error) is PrimaryUnreachable
    assert str(status) in error.why


@pytest.mark.parametrize("act", ENTRIES)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_nobody_else_sees_the_token(
    status: int, act: Callable[[Primary], object]
) -> None:
    asked: list[httpx.Request] = []

    def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return reply(status, "over there", {"Location": "https://elsewhere.example/x"})

    for expected, meaning in (("", PrimaryRefused), ("primary", NotThePrimary)):
        error = refused(act, redirect, expected=expected)
        assert type(error) is meaning
        asked[1:] = []
    assert f"it redirects ({status})" in error.why
    assert "--primary-url" in error.hint
    assert [request.url.host for request in asked] == ["primary.example"]


@pytest.mark.parametrize("act", ALL)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 418, 451])
def test_a_no_of_something_that_is_no_devpi_server_is_a_refusal_at_the_first_contact_alone(
    status: int, act: Callable[[Primary], object]
) -> None:
    """Once the server is known, that is how a router speaks while it is away."""
    for expected, meaning in (("", PrimaryRefused), ("primary", NotThePrimary)):
        error = refused(act, lambda _request: reply(status, "no"), expected=expected)
        assert type(error) is meaning
        assert f"it answered {status}" in error.why
        assert error.details == {}
        assert "/+changelog" in error.hint


@pytest.mark.parametrize("act", ALL)
@pytest.mark.parametrize("missing", ["X-DEVPI-SERIAL", "uuid"])
def test_an_answer_without_one_of_devpis_headers_is_refused(
    missing: str, act: Callable[[Primary], object]
) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        headers = answers(serial=5)
        for name in [name for name in headers if missing.lower() in name.lower()]:
            del headers[name]
        return reply(200, "<html>", headers)

    error = refused(act, handle)
    assert type(error) is PrimaryRefused
    assert "X-DEVPI-SERIAL" in error.why


@pytest.mark.parametrize(
    "serial",
    ["-2", "-5", "", "-", "--5", "5.0", "five", "²", "5 6", "0x5", "9" * 5000, "9" * 30, "1_0", "2147483648"],
)
def test_a_serial_that_is_no_number_is_refused(serial: str) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        named = [(name.encode(), value.encode()) for name, value in answers().items() if "SERIAL" not in name]
        return httpx.Response(200, headers=[*named, (b"X-DEVPI-SERIAL", serial.encode("latin-1"))])

    assert type(refused(ask_hello, handle)) is PrimaryRefused


@pytest.mark.parametrize("uuid", ["", "a b", "\x1b[31m", "\xff", "x" * 65])
def test_a_uuid_that_is_none_is_refused(uuid: str) -> None:
    """It would go into headers, tables and messages."""

    def handle(_request: httpx.Request) -> httpx.Response:
        named = [(b"X-DEVPI-SERIAL", b"5"), (b"X-DEVPI-PRIMARY-UUID", uuid.encode("latin-1"))]
        return httpx.Response(200, headers=named)

    with primary(handle, expected="") as one, pytest.raises(PrimaryRefused):
        one.hello()


@pytest.mark.parametrize("serial", ["-1", "0", "7", "2147483647"])
def test_a_serial_that_is_a_number_is_taken(serial: str) -> None:
    with primary(lambda _request: httpx.Response(200, headers=answers() | {"X-DEVPI-SERIAL": serial})) as one:
        assert one.hello().serial == int(serial)


@pytest.mark.parametrize("act", ALL)
@pytest.mark.parametrize("status", [200, 202, 403, 404, 500])
def test_another_server_is_another_history_whatever_it_answers(
    status: int, act: Callable[[Primary], object]
) -> None:
    error = refused(act, lambda _request: reply(status, "x", answers("another", 5)))
    assert type(error) is WrongHistory
    assert "another" in error.why
    assert "primary" in error.why


def test_a_400_about_the_uuid_is_another_history() -> None:
    text = "expected another as primary_uuid, replica sent primary"
    error = refused(ask_entry, always(400, text))
    assert type(error) is WrongHistory


def test_before_the_first_contact_any_server_will_do() -> None:
    with primary(lambda _request: httpx.Response(200, headers=answers("whoever", 5)), expected="") as one:
        assert one.hello().uuid == "whoever"
        one.expect("primary")
        with pytest.raises(WrongHistory):
            one.hello()


@pytest.mark.parametrize("status", [200, 404, 500])
def test_whoever_has_devpis_headers_has_said_who_it_is(status: int) -> None:
    with primary(always(status)) as one:
        assert one.hello().serial == 5


def test_servers_before_6_13_have_the_old_name_of_the_header_alone() -> None:
    headers = {"X-DEVPI-MASTER-UUID": "primary", "X-DEVPI-UUID": "primary", "X-DEVPI-SERIAL": "3"}
    with primary(lambda _request: httpx.Response(200, headers=headers)) as one:
        assert one.hello().before_6_13
    with primary(always(200)) as one:
        assert not one.hello().before_6_13
    replica = headers | {"X-DEVPI-UUID": "another"}
    assert type(refused(ask_hello, lambda _request: reply(200, "", replica))) is NotThePrimary


def test_requests_of_the_changelog_say_who_asks_and_whom() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, headers=answers(serial=4))

    with primary(handle) as one:
        one.entry(5)
        with one.changes(5, poll=True) as changes:
            assert list(changes.groups) == []
        with one.changes(5, poll=False):
            pass
    assert [str(request.url) for request in seen] == [
        f"{URL}/+changelog/5?initial_fetch",
        f"{URL}/+changelog/5",
        f"{URL}/+changelog/5-?initial_fetch",
    ]
    token = TokenSigner(KEY, lambda: 1_800_000_000.0).token("replica")
    for request in seen:
        assert request.headers["X-DEVPI-REPLICA-UUID"] == "replica"
        assert request.headers["X-DEVPI-EXPECTED-PRIMARY-ID"] == "primary"
        assert request.headers["X-DEVPI-EXPECTED-MASTER-ID"] == "primary"
        assert request.headers["User-Agent"] == f"devpi-replisync/{__version__}"
        assert request.headers["Authorization"] == f"Bearer {token}"
        assert request.headers["Accept-Encoding"] == "identity"
    assert "application/octet-stream; q=0.9" in seen[2].headers["Accept"]


def test_without_a_signer_no_token_is_sent() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, headers=answers())

    with primary(handle, signed=False) as one:
        one.hello()
    assert "Authorization" not in seen[0].headers


@pytest.mark.parametrize("status", [403, 400, 404, 500, 301])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_of_an_endless_error_page_only_the_beginning_is_read(status: int, encoding: str) -> None:
    body = Body(*itertools.repeat(b"x" * 1000, 10_000))

    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"Content-Encoding": encoding}, stream=body)

    refused(ask_entry, handle)
    assert body.sent <= 100_000
    assert body.closed


class TestEntries:
    """The endpoint for one entry."""

    @pytest.mark.parametrize("status", [202, 404])
    def test_a_serial_that_the_primary_does_not_have_is_none(self, status: int) -> None:
        with primary(lambda _request: httpx.Response(status, headers=answers(serial=4))) as one:
            hello, entry = one.entry(5)
        assert entry is None
        assert hello.serial == 4

    def test_a_404_for_a_serial_that_it_should_have_is_a_refusal(self) -> None:
        assert type(refused(ask_entry, always(404, "not found"))) is PrimaryRefused

    @pytest.mark.parametrize("body", [b"<html>", b"JQ"])
    def test_what_is_no_entry_is_corrupt_and_named(self, body: bytes) -> None:
        error = refused(
            ask_entry, lambda _r: httpx.Response(200, headers=answers(serial=9), stream=Body(body))
        )
        assert type(error) is CorruptEntry
        assert error.serial == 5

    def test_compression_that_nobody_asked_for_is_refused(self) -> None:
        for act in ENTRIES:
            error = refused(act, always(200, "x", content_encoding="gzip"))
            assert type(error) is PrimaryRefused
            assert "compresses" in error.why

    def test_answers_are_closed_whatever_is_in_them(self) -> None:
        body = Body(b"x")
        with ExitStack() as stack:
            one = stack.enter_context(
                primary(lambda _r: httpx.Response(200, headers=answers(serial=9), stream=body))
            )
            with pytest.raises(CorruptEntry):
                one.entry(5)
        assert body.closed
