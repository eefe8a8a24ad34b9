"""A primary whose clock is not ours: its own Date header mends it, once."""

from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from itsdangerous import BadSignature, SignatureExpired, TimedSerializer
from itsdangerous.timed import TimestampSigner

from replisync.auth import TokenSigner
from replisync.errors import PrimaryRefused
from replisync.primary import Primary
from tests.fakes import Body, answers

KEY = b"0123456789abcdef"
OURS = 1_800_000_000.6

# devpi-server takes a token for so long (its REPLICA_REQUEST_TIMEOUT), and none that is from its future.
MAX_AGE_SECONDS = 37.5


class Server:
    """Checks tokens as devpi-server does, by a clock of its own."""

    def __init__(self, skew: float, key: bytes = KEY, *, date: bool = True) -> None:
        self.now = OURS + skew
        self.key = key
        self.date = date
        self.statuses: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        status, text = self._check(request.headers["Authorization"].removeprefix("Bearer "))
        self.statuses.append(status)
        headers = answers(serial=4)
        if self.date:
            headers["Date"] = format_datetime(datetime.fromtimestamp(int(self.now), UTC), usegmt=True)
        return httpx.Response(status, headers=headers, stream=Body(text))

    def _check(self, token: str) -> tuple[int, bytes]:
        now = int(self.now)

        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return now

        try:
            uuid = TimedSerializer(self.key, signer=Signer).loads(token, max_age=MAX_AGE_SECONDS)
        except SignatureExpired:
            return 403, b"Authorization expired."
        except BadSignature:
            return 403, b"Authorization malformed."
        return (202, b"") if uuid == "replica" else (403, b"Wrong authorization value.")


def primary(server: Server) -> Primary:
    """Return a primary behind this server."""
    signer = TokenSigner(KEY, lambda: OURS)
    transport = httpx.MockTransport(server)
    return Primary("http://primary", signer, uuid="replica", expected="primary", transport=transport)


@pytest.mark.parametrize("skew", [-3600.0, -60.0, -1.0, -2.3, 60.0, 3600.0, -86400.0 * 365, 86400.0 * 365])
def test_a_clock_that_differs_is_learned_from_the_answer_and_the_request_repeated_once(skew: float) -> None:
    server = Server(skew)
    with primary(server) as one:
        assert one.entry(5)[1] is None
        assert server.statuses == [403, 202]
        one.entry(5)
        with one.changes(5, poll=False) as changes:
            assert list(changes.groups) == []
    assert server.statuses == [403, 202, 202, 202]


@pytest.mark.parametrize("skew", [0.0, 1.0, 30.0])
def test_a_clock_that_is_a_little_ahead_is_good_enough(skew: float) -> None:
    server = Server(skew)
    with primary(server) as one:
        one.entry(5)
    assert server.statuses == [202]


def test_files_are_asked_for_by_the_primarys_clock_too() -> None:
    server = Server(-3600)
    with primary(server) as one, one.download("u/i/x.zip") as answer:
        assert answer.status == 202
    assert server.statuses == [403, 202]


@pytest.mark.parametrize("year", [2026, 1960, 1, 9999])
def test_a_token_that_expires_for_ever_ends_in_a_refusal_and_not_in_a_loop(year: int) -> None:
    """Whatever time the primary claims."""
    statuses = []

    def never(_request: httpx.Request) -> httpx.Response:
        statuses.append(403)
        headers = answers(serial=4, date=f"Sun, 22 Nov {year:04} 11:39:23 GMT")
        return httpx.Response(403, headers=headers, stream=Body(b"Authorization expired."))

    transport = httpx.MockTransport(never)
    with (
        Primary("http://p", TokenSigner(KEY, lambda: OURS), uuid="replica", transport=transport) as one,
        pytest.raises(PrimaryRefused, match="clock") as caught,
    ):
        one.entry(5)
    assert len(statuses) == 2
    assert "NTP" in caught.value.hint


@pytest.mark.parametrize(
    "date",
    [
        *(None, "", "yesterday", "Sun, 99 Foo 2026 11:39:23 GMT", "\xff"),
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
    ],
)
def test_without_a_date_that_can_be_read_the_first_no_stands(date: str | None) -> None:
    statuses = []

    def handle(_request: httpx.Request) -> httpx.Response:
        statuses.append(403)
        headers = [(name.encode(), value.encode()) for name, value in answers(serial=4).items()]
        if date is not None:
            headers.append((b"Date", date.encode("latin-1")))
        return httpx.Response(403, headers=headers, stream=Body(b"Authorization expired."))

    transport = httpx.MockTransport(handle)
    with (
        Primary("http://p", TokenSigner(KEY, lambda: OURS), uuid="replica", transport=transport) as one,
        pytest.raises(PrimaryRefused, match="clock"),
    ):
        one.entry(5)
    assert statuses == [403]


def test_another_secret_is_refused_at_once_and_named() -> None:
    server = Server(0, b"another key.....")
    with primary(server) as one, pytest.raises(PrimaryRefused, match="does not accept our secret"):
        one.entry(5)
    assert server.statuses == [403]
