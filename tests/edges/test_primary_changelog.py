"""The changelog over HTTP: which framing is taken, what of a broken answer is used, who is behind it."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from devpi_server.fileutil import dumps

from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry
from replisync.devpi.wire import Limits
from replisync.errors import (
    BrokenStream,
    CorruptEntry,
    PrimaryDamaged,
    PrimaryRefused,
    PrimaryUnreachable,
    WrongHistory,
)
from replisync.primary.client import STREAM_TYPE, Primary
from replisync.primary.connection import Link
from tests.fakes import Body, ScriptedPrimary, answers

Handler = Callable[[httpx.Request], httpx.Response]


def raw(serial: int) -> bytes:
    """Return the stored bytes of an entry with something of its own in it."""
    data: bytes = dumps(({f"u/i/{serial}/.config": ("PROJVERSION", -1, {"n": serial})}, ["+files/x-tmp"]))
    return data


def streamed(first: int, last: int) -> bytes:
    """Return what the streaming endpoint sends."""
    return b"".join(dumps(serial) + raw(serial) for serial in range(first, last + 1))


def primary(handler: Handler, **options: object) -> Primary:
    """Return a primary whose answers a handler makes."""
    transport = httpx.MockTransport(handler)
    return Primary("http://p/", None, uuid="r", expected="primary", link=Link(transport=transport, **options))  # type: ignore[arg-type]


def collect(groups: Iterator[list[ChangelogEntry]], into: list[int]) -> None:
    """Read groups to their end; keep the serials."""
    for group in groups:
        into += [entry.serial for entry in group]


def stream_answer(*chunks: bytes | Exception, serial: int = 9) -> httpx.Response:
    """Return a streaming answer."""
    return httpx.Response(200, headers=answers(serial=serial, content_type=STREAM_TYPE), stream=Body(*chunks))


class TestStreaming:
    """The framing of devpi-server 6.5.0 and later."""

    @pytest.mark.parametrize("chunk", [1, 7, 100, 10**6])
    def test_entries_come_as_they_arrive(self, chunk: int) -> None:
        server = ScriptedPrimary()
        server.entries = [raw(serial) for serial in range(12)]
        server.chunk = chunk
        one = Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        )
        got: list[int] = []
        with one, one.changes(3, poll=False) as changes:
            assert changes.hello.serial == 11
            collect(changes.groups, got)
        assert got == list(range(3, 12))

    def test_an_entry_is_handed_out_before_the_next_one_is_there(self) -> None:
        body = Body(streamed(3, 3), streamed(4, 4), streamed(5, 5))
        answer = httpx.Response(200, headers=answers(serial=5, content_type=STREAM_TYPE), stream=body)
        with primary(lambda _request: answer) as one, one.changes(3, poll=False) as changes:
            assert [entry.serial for entry in next(changes.groups)] == [3]
            assert body.sent == len(streamed(3, 3))

    def test_nothing_new_is_no_groups(self) -> None:
        with (
            primary(lambda _request: httpx.Response(202, headers=answers(serial=2))) as one,
            one.changes(3, poll=True) as changes,
        ):
            assert list(changes.groups) == []
            assert changes.hello.serial == 2

    @pytest.mark.parametrize(
        "error",
        [
            httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
            httpx.ReadError("[Errno 104] Connection reset by peer"),
        ],
    )
    def test_an_answer_that_breaks_off_gives_what_was_whole(self, error: Exception) -> None:
        data = streamed(3, 5)
        got: list[int] = []
        with (
            primary(lambda _request: stream_answer(data[:-4], error)) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises(BrokenStream),
        ):
            collect(changes.groups, got)
        assert got == [3, 4]

    def test_an_answer_that_ends_inside_an_entry_is_broken(self) -> None:
        got: list[int] = []
        with (
            primary(lambda _request: stream_answer(streamed(3, 5)[:-4])) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises(BrokenStream) as caught,
        ):
            collect(changes.groups, got)
        assert got == [3, 4]
        assert caught.value.serial == 5

    def test_entries_before_a_corrupt_one_are_given(self) -> None:
        got: list[int] = []
        with (
            primary(lambda _request: stream_answer(streamed(3, 4) + b"\0\0\0" + streamed(5, 6))) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises(CorruptEntry) as caught,
        ):
            collect(changes.groups, got)
        assert got == [3, 4]
        assert caught.value.serial == 5

    def test_an_entry_beyond_the_limits_is_refused(self) -> None:
        large = dumps(3) + dumps(({"u/i/x": ("PLUGIN", 1, "x" * 5000)}, []))
        with (
            primary(lambda _request: stream_answer(large), limits=Limits(4000)) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises(CorruptEntry, match="more than 4000 bytes"),
        ):
            list(changes.groups)

    def test_what_the_caller_raises_while_reading_passes_as_it_is(self) -> None:
        def read(one: Primary) -> None:
            with one.changes(3, poll=False) as changes:
                next(changes.groups)
                raise ZeroDivisionError

        with primary(lambda _request: stream_answer(streamed(3, 5))) as one, pytest.raises(ZeroDivisionError):
            read(one)

    def test_an_answer_that_is_left_is_closed(self) -> None:
        body = Body(streamed(3, 5), streamed(6, 9))
        answer = httpx.Response(200, headers=answers(serial=9, content_type=STREAM_TYPE), stream=body)
        with primary(lambda _request: answer) as one, one.changes(3, poll=False) as changes:
            next(changes.groups)
        assert body.closed


class TestPosition:
    """A primary that is behind us has another history."""

    @pytest.mark.parametrize(("serial", "status"), [(1, 404), (1, 202), (-1, 404), (0, 200)])
    def test_a_primary_behind_us_is_refused(self, serial: int, status: int) -> None:
        def handle(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(status, headers=answers(serial=serial), stream=Body(b""))

        with primary(handle) as one, pytest.raises(WrongHistory, match="behind ours") as caught:  # noqa: SIM117
            with one.changes(3, poll=False):
                pass
        assert caught.value.serial == 2

    def test_a_primary_with_nothing_at_all_is_no_problem_for_a_target_with_nothing(self) -> None:
        def handle(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(202, headers=answers(serial=-1))

        with primary(handle) as one, one.changes(0, poll=False) as changes:
            assert list(changes.groups) == []


class TestBatches:
    """The framing of devpi-server 4.9 to 6.4: one list, without the lists of renames."""

    @staticmethod
    def answer(*items: object) -> Handler:
        """Answer with a batch."""
        body: bytes = dumps(list(items))
        headers = answers(serial=9, content_type="application/octet-stream")
        return lambda _request: httpx.Response(200, headers=headers, stream=Body(body[:50], body[50:]))

    def test_what_is_not_the_streams_type_is_a_batch(self) -> None:
        with (
            primary(self.answer((3, {}), (4, {"a": ("PLUGIN", 1, 2)}))) as one,
            one.changes(3, poll=False) as changes,
        ):
            entries = [entry for group in changes.groups for entry in group]
        assert [entry.serial for entry in entries] == [3, 4]
        assert entries[0].data == EMPTY_ENTRY

    def test_entries_before_a_wrong_one_are_given(self) -> None:
        got: list[int] = []
        with (
            primary(self.answer((3, {}), (4, {}), (6, {}))) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises(CorruptEntry) as caught,
        ):
            collect(changes.groups, got)
        assert got == [3, 4]
        assert caught.value.serial == 5

    def test_a_batch_beyond_the_limits_is_refused_before_all_of_it_is_read(self) -> None:
        body = Body(*[b"x" * 1000] * 1000)
        with (
            primary(
                lambda _request: httpx.Response(200, headers=answers(serial=9), stream=body),
                limits=Limits(10_000),
            ) as one,
            one.changes(3, poll=False) as changes,
            pytest.raises((PrimaryRefused, PrimaryDamaged), match="10000 bytes"),
        ):
            list(changes.groups)
        assert body.sent < 20_000


class Oldest(ScriptedPrimary):
    """A server before 4.9.0: there is an endpoint for one entry, and none for more."""

    def _answer(self, path: str) -> httpx.Response:
        if path.endswith("-"):
            return httpx.Response(404, headers=answers(self.uuid, self.serial), stream=Body(b"not found"))
        answer = super()._answer(path)
        answer.extensions["network_stream"] = self.connection
        return answer


class TestSingleEntries:
    """Servers before 4.9.0: where the other endpoint does not exist, entries are asked for one by one."""

    @staticmethod
    def server(count: int = 6) -> Oldest:
        """Return such a server with some entries."""
        server = Oldest()
        server.entries = [raw(serial) for serial in range(count)]
        return server

    def test_the_way_is_found_out_once_and_then_taken(self) -> None:
        server = self.server()
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            for first, serials in ((2, [2, 3, 4, 5]), (4, [4, 5])):
                got: list[int] = []
                with one.changes(first, poll=False) as changes:
                    collect(changes.groups, got)
                assert got == serials
        paths = [request.url.path for request in server.requests]
        assert sum(path.endswith("-") for path in paths) == 1
        assert paths[-2:] == ["/+changelog/4", "/+changelog/5"]

    def test_nothing_new_is_no_groups(self) -> None:
        server = self.server()
        with (
            Primary(
                "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
            ) as one,
            one.changes(6, poll=True) as changes,
        ):
            assert list(changes.groups) == []

    def test_another_connection_ends_the_answer_so_that_who_is_there_is_asked(self) -> None:
        server = self.server()
        got: list[int] = []
        with (
            Primary(
                "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
            ) as one,
            one.changes(2, poll=False) as changes,
        ):
            for group in changes.groups:
                got += [entry.serial for entry in group]
                if got == [2, 3]:
                    server.connection = object()
        assert got == [2, 3]

    def test_a_primary_behind_us_is_refused(self) -> None:
        server = self.server(3)
        with (  # noqa: SIM117
            Primary(
                "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
            ) as one,
            pytest.raises(WrongHistory),
        ):
            with one.changes(5, poll=False):
                pass


class TestWaiting:
    """A poll for what is not there yet, as a follower's are; see `Primary.changes`."""

    def polled(self, one: Primary, first: int) -> list[int]:
        """Return the serials that a poll brings."""
        got: list[int] = []
        with one.changes(first, poll=True) as changes:
            collect(changes.groups, got)
        return got

    def test_what_was_waited_for_comes_by_itself_over_a_connection_that_stays(self) -> None:
        server = ScriptedPrimary()
        server.entries = [raw(0)]
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            one.hello()
            for serial in (1, 2):
                assert self.polled(one, serial) == []
                server.entries.append(raw(serial))
                assert self.polled(one, serial) == [serial]
                assert not one.disconnected
        paths = [str(request.url.path) for request in server.requests]
        assert paths[1:] == ["/+changelog/1", "/+changelog/1", "/+changelog/2", "/+changelog/2"]

    def test_a_few_that_came_together_come_by_themselves_and_many_as_a_stream(self) -> None:
        server = ScriptedPrimary()
        server.entries = [raw(0)]
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            one.hello()
            server.entries += [raw(serial) for serial in range(1, 30)]
            assert self.polled(one, 1) == list(range(1, 9))
            assert self.polled(one, 9) == list(range(9, 30))
        paths = [str(request.url.path) for request in server.requests]
        assert paths[1:] == [*(f"/+changelog/{serial}" for serial in range(1, 9)), "/+changelog/9-"]

    def test_what_is_known_to_be_there_comes_as_a_stream(self) -> None:
        server = ScriptedPrimary()
        server.entries = [raw(serial) for serial in range(3)]
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            one.hello()
            assert self.polled(one, 1) == [1, 2]
        assert str(server.requests[-1].url.path) == "/+changelog/1-"


class TestConnections:
    """An answer over another connection may come from another server, or from the same with other data."""

    def test_a_first_answer_is_new_and_the_next_over_the_same_connection_is_not(self) -> None:
        server = ScriptedPrimary()
        server.entries = [raw(0)]
        news = []
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            for _ in range(2):
                with one.changes(1, poll=False) as changes:
                    news.append(changes.new_connection)
            server.connection = object()
            with one.changes(1, poll=False) as changes:
                news.append(changes.new_connection)
        assert news == [True, False, True]

    def test_where_the_connection_cannot_be_told_every_answer_is_new(self) -> None:
        with primary(lambda _request: httpx.Response(202, headers=answers(serial=0))) as one:
            for _ in range(2):
                with one.changes(1, poll=False) as changes:
                    assert changes.new_connection


class TestMissingRows:
    """A primary that breaks off every longer answer is asked entry by entry, up to what it lacks."""

    def test_entries_before_a_missing_row_are_given_and_the_row_is_named(self) -> None:
        class Damaged(ScriptedPrimary):
            """A row is missing: longer answers fail, the row itself is an empty body."""

            def _answer(self, path: str) -> httpx.Response:
                if path.endswith("-"):
                    return self._respond(500, b"Internal Server Error")
                return self._respond(200, b"") if path.endswith("/4") else super()._answer(path)

        server = Damaged()
        server.entries = [raw(serial) for serial in range(8)]
        got: list[int] = []
        failures: list[type[Exception]] = []
        with Primary(
            "http://p/", None, uuid="r", expected="primary", link=Link(transport=server.transport())
        ) as one:
            for _ in range(7):
                got.clear()  # each try begins anew
                try:
                    with one.changes(2, poll=False) as changes:
                        collect(changes.groups, got)
                except PrimaryUnreachable as err:
                    failures.append(type(err))
                except CorruptEntry as err:
                    assert err.serial == 4  # noqa: PT017 - which of several errors it is, is what is tested
                    break
            else:
                pytest.fail("the missing row was never named")
        assert got == [2, 3]
        assert failures


class TestCutAnswers:
    """A part that HTTP takes for all of it, as a broken proxy passes it on."""

    def test_it_is_a_broken_line_and_in_the_end_damage(self) -> None:
        """Who asks again gets the rest, unless there is none, which the third time shows."""
        bodies = [raw(3)[:-1], raw(3)[:-1], raw(3), *[raw(3)[:20]] * 3]
        left = iter(bodies)

        def handle(_request: httpx.Request) -> httpx.Response:
            body = next(left)
            return httpx.Response(200, headers=answers(serial=9), stream=Body(body))

        with primary(handle) as one:
            for _ in range(2):
                with pytest.raises(BrokenStream, match="middle of an entry") as caught:
                    one.entry(3)
                assert caught.value.serial == 3
            found = one.entry(3)[1]
            assert found is not None
            for error in (BrokenStream, BrokenStream, CorruptEntry):
                with pytest.raises(error):
                    one.entry(3)

    @pytest.mark.parametrize("damaged", [raw(3) + b"x", raw(3)[:-1] + b"!", b"\xff" * 30])
    def test_what_cannot_be_the_beginning_of_an_entry_is_damage_at_once(self, damaged: bytes) -> None:
        def handle(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers=answers(serial=9), stream=Body(damaged))

        with primary(handle) as one, pytest.raises(CorruptEntry):
            one.entry(3)

    def test_an_empty_answer_may_be_a_proxys_and_is_damage_the_fifth_time(self) -> None:
        def handle(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers=answers(serial=9), stream=Body(b""))

        with primary(handle) as one:
            for _ in range(4):
                with pytest.raises(BrokenStream, match="the answer was empty"):
                    one.entry(3)
            with pytest.raises(CorruptEntry, match="empty 5 times") as caught:
                one.entry(3)
        assert caught.value.serial == 3
        assert "without any proxy" in caught.value.hint
