"""A primary whose clock is not ours: its time is learned from its answers, or searched for."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from itsdangerous import BadSignature, SignatureExpired, TimedSerializer
from itsdangerous.timed import TimestampSigner

from replisync.devpi.tokens import TokenSigner
from replisync.errors import PrimaryRefused, PrimaryUnreachable
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from tests.fakes import Body, answers

KEY = b"0123456789abcdef"
OURS = 1_800_000_000.6

# devpi-server takes a token for so long (its REPLICA_AUTH_MAX_AGE), and none that is from its future.
MAX_AGE_SECONDS = 37.6

# What a search asks at most: to 10 minutes on both sides in steps of 30 seconds.
SEARCHED = 40

# Each place in a step of 30 seconds, on both sides, and what is farthest off.
SKEWS = (*range(-612, -580, 3), *range(-46, 47), *range(580, 613, 3))

Way = Callable[[httpx.Request], httpx.Response]


class Server:
    """Checks tokens as devpi-server does, by a clock of its own.

    skew: how far that is ahead of ours.
    dates: "own", "proxy" for the time of a proxy whose clock is right, "" for none, or what the header says.
    """

    def __init__(self, skew: float, key: bytes = KEY, *, dates: str = "own") -> None:
        self.true = OURS  # what a clock says that is right
        self.shift = 0.0  # how far ours is ahead of that
        self.skew = skew
        self.key = key
        self.dates = dates
        self.statuses: list[int] = []

    def primary(self, expected: str = "primary", way: Way | None = None) -> Primary:
        """Return this server as a standby sees it.

        way: what a request meets on its way; by default nothing.
        """
        signer = TokenSigner(KEY, lambda: self.true + self.shift, steady=lambda: self.true)
        transport = httpx.MockTransport(way or self)
        return Primary(
            "http://primary", signer, uuid="replica", expected=expected, link=Link(transport=transport)
        )

    @property
    def refused(self) -> int:
        """How many tokens were refused so far."""
        return self.statuses.count(403)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        now = self.true + self.skew
        status, text = self._check(request.headers["Authorization"].removeprefix("Bearer "), int(now))
        self.statuses.append(status)
        date = {"own": now, "proxy": self.true}.get(self.dates, self.dates)
        if isinstance(date, float):
            date = format_datetime(datetime.fromtimestamp(int(date), UTC), usegmt=True)
        headers = [(name.encode(), value.encode()) for name, value in answers(serial=4).items()]
        headers += [(b"Date", date.encode("latin-1"))] if date else []
        return httpx.Response(status, headers=headers, stream=Body(text))

    def _check(self, token: str, now: int) -> tuple[int, bytes]:
        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return now

        max_age: Any = MAX_AGE_SECONDS  # devpi-server hands in a float too
        try:
            uuid = TimedSerializer(self.key, signer=Signer).loads(token, max_age=max_age)
        except SignatureExpired:
            return 403, b"Authorization expired."
        except BadSignature:
            return 403, b"Authorization malformed."
        return (202, b"") if uuid == "replica" else (403, b"Wrong authorization value.")


def ask_each_second(one: Primary, server: Server, seconds: int) -> None:
    """Use tokens for longer than one of them serves."""
    for _ in range(seconds):
        server.true += 1
        one.entry(5)


@pytest.mark.parametrize("dates", ["own", ""])
def test_a_token_that_expired_on_its_way_is_made_again(dates: str) -> None:
    """As to a server that answers its first request when its start is done."""
    server = Server(0.0, dates=dates)

    def held(request: httpx.Request) -> httpx.Response:
        server.true += 0.0 if server.statuses else 2 * MAX_AGE_SECONDS
        return server(request)

    with server.primary(way=held) as one:
        assert one.entry(5)[1] is None
        assert server.statuses == [403, 202]
        ask_each_second(one, server, 60)
    assert server.refused == 1


@pytest.mark.parametrize("skew", [-3600.0, -60.0, -16.0, 60.0, 3600.0, -86400.0 * 365, 86400.0 * 365])
def test_a_clock_that_differs_is_learned_from_the_answer_and_the_request_repeated_once(skew: float) -> None:
    server = Server(skew)
    with server.primary() as one:
        assert one.entry(5)[1] is None
        assert server.statuses == [403, 202]
        one.entry(5)
        with one.changes(5, poll=False) as changes:
            assert list(changes.groups) == []
        ask_each_second(one, server, 60)
    assert server.refused == 1


@pytest.mark.parametrize("dates", ["own", "proxy", ""])
@pytest.mark.parametrize("skew", [-14.0, -3.0, -1.0, 0.0, 0.9, 3.0, 16.0])
def test_a_clock_that_is_a_little_off_is_good_enough_whatever_the_answers_say(
    skew: float, dates: str
) -> None:
    server = Server(skew, dates=dates)
    with server.primary() as one:
        ask_each_second(one, server, 60)
    assert server.refused == 0


def test_files_are_asked_for_by_the_primarys_clock_too() -> None:
    server = Server(-3600)
    with server.primary() as one, one.download("u/i/x.zip") as answer:
        assert answer.status == 202
    assert server.statuses == [403, 202]


# A proxy that writes a Date of its own, as nginx does


@pytest.mark.parametrize(
    ("dates", "skews"), [("proxy", SKEWS), ("", (-300, -20, 20, 300)), ("yesterday", (-300, 20, 300))]
)
def test_behind_a_proxy_that_replaces_its_date_the_primarys_time_is_found_once_and_kept(
    dates: str, skews: tuple[int, ...]
) -> None:
    """Whatever it is within ten minutes, and whenever in the life of a token it is asked."""
    for skew in skews:
        server = Server(skew, dates=dates)
        with server.primary() as one:
            # The token that is used for some seconds may be what shows it.
            ask_each_second(one, server, 6)
            found = server.refused
            assert found <= SEARCHED + 1, f"{found} requests for {skew} s"
            ask_each_second(one, server, 30)
            assert server.refused == found, f"{skew} s is not known for good"


def test_our_own_clock_may_be_hours_off_where_the_proxys_is_right() -> None:
    server = Server(-120, dates="proxy")
    server.shift = -3 * 3600
    with server.primary() as one:
        ask_each_second(one, server, 30)
    assert server.refused <= 2 * SEARCHED + 2


def test_clocks_that_are_set_while_we_follow_are_followed() -> None:
    """The primary's, ours, and both."""
    server = Server(0, dates="proxy")
    with server.primary() as one:
        for skew, shift in ((-300, 0), (-300, 240), (3, -240), (300, 0), (0, 0)):
            server.skew, server.shift = skew, shift
            ask_each_second(one, server, 300)
            before = server.refused
            ask_each_second(one, server, 60)
            assert server.refused == before


@pytest.mark.parametrize("dates", ["proxy", "", "yesterday"])
def test_a_search_that_finds_nothing_is_bounded_and_not_repeated_at_each_try(dates: str) -> None:
    server = Server(-7200, dates=dates)
    with server.primary() as one:
        with pytest.raises(PrimaryUnreachable):
            one.entry(5)
        assert len(server.statuses) <= SEARCHED + 2
        server.statuses.clear()
        for _ in range(100):
            server.true += 2.5
            with pytest.raises(PrimaryUnreachable):
                one.entry(5)
        assert len(server.statuses) == 100
        server.true += 60
        server.skew = -600
        one.entry(5)
        assert len(server.statuses) <= 100 + SEARCHED + 2


def test_clocks_that_change_all_the_time_do_not_make_us_search_all_the_time() -> None:
    server = Server(0, dates="proxy")
    asked = 100
    with server.primary() as one:
        for number in range(asked):
            server.true += 1
            server.skew = (-600, 600)[number % 2]
            with suppress(PrimaryUnreachable):
                one.entry(5)
    # Each once more by the time that its answer says.
    assert len(server.statuses) <= 2 * asked + 3 * SEARCHED


def test_a_primary_that_answers_slowly_is_not_searched_through() -> None:
    """Tokens that grow old in its queue are no matter of its clock."""
    server = Server(0)

    def late(request: httpx.Request) -> httpx.Response:
        server.true += 30
        return server(request)

    with server.primary(way=late) as one, pytest.raises(PrimaryUnreachable):
        one.entry(5)
    assert len(server.statuses) <= 4


def test_threads_search_once_for_all_of_them() -> None:
    threads = 8
    server = Server(-300, dates="proxy")
    together = threading.Barrier(threads)
    here = threading.local()
    statuses: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        answer = server(request)
        if not hasattr(here, "asked"):
            here.asked = True
            together.wait(30)  # all have asked before any of them learns
        return answer

    with server.primary(way=handle) as one:

        def fetch() -> None:
            with one.download("u/i/x.zip") as answer:
                statuses.append(answer.status)

        workers = [threading.Thread(target=fetch) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
    assert statuses == [202] * threads
    assert server.refused <= threads + SEARCHED


def test_a_search_that_breaks_off_forgets_what_it_tried() -> None:
    server = Server(-300, dates="proxy")
    tries: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        tries.append(1)
        if len(tries) == 5:
            raise httpx.ConnectError("it went away")
        return server(request)

    with server.primary(way=handle) as one:
        with pytest.raises(PrimaryUnreachable, match="it went away"):
            one.entry(5)
        server.skew = 0
        one.entry(5)
    assert server.statuses == [403, 403, 403, 403, 202]


# What the operator is told


@pytest.mark.parametrize(
    "dates",
    [
        *("", "yesterday", "Sun, 99 Foo 2026 11:39:23 GMT", "\xff", "proxy"),
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        *(f"Sun, 22 Nov {year:04} 11:39:23 GMT" for year in (2026, 1960, 1, 9999)),
    ],
)
def test_a_time_that_is_not_found_is_no_end_but_at_first_contact(dates: str) -> None:
    """Whatever time the answers claim; nothing loops."""
    server = Server(-7200, dates=dates)
    with server.primary() as one, pytest.raises(PrimaryUnreachable, match="clock") as known:
        one.entry(5)
    assert len(server.statuses) <= 2 * SEARCHED + 2
    server.statuses.clear()
    with server.primary(expected="") as one, pytest.raises(PrimaryRefused, match="clock") as unknown:
        one.entry(5)
    assert len(server.statuses) <= 2 * SEARCHED + 2
    for caught in (known, unknown):
        assert "NTP" in caught.value.hint
        assert "proxy_pass_header Date;" in caught.value.hint
        assert "secret" not in str(caught.value), "devpi looks at the signature first"
    assert known.value.transient
    assert not unknown.value.transient


@pytest.mark.parametrize("skew", [0, -3600])
def test_another_secret_is_refused_at_once_and_named(skew: float) -> None:
    server = Server(skew, b"another key.....")
    with server.primary() as one, pytest.raises(PrimaryRefused, match="does not accept our secret"):
        one.entry(5)
    assert server.statuses == [403]
