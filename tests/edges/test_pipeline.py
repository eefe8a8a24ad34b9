"""The loop, on a scripted primary and a real disk: identity first, files before serials, faults and waits."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from replisync.changelog.records import Fault
from replisync.errors import CorruptEntry, FilesMissing, ForeignWriter, PrimaryUnreachable, WrongHistory
from replisync.system import clock
from tests.edges.scenario import NOMD5, TOX, A, B, Target, drop, put, state, users, value
from tests.fakes import Body, ScriptedPrimary, Trap, answers

CONTENT = b"a" * 3000


@pytest.fixture
def server() -> ScriptedPrimary:
    """A primary with a user, a stage and a mirror."""
    server = ScriptedPrimary()
    server.commit(users("dev", "pypi"))
    return server


@pytest.fixture
def target(folder: Path, server: ScriptedPrimary) -> Iterator[Target]:
    """A target that has followed the primary so far."""
    with closing(Target(folder / "target", server, Trap(), entries=100)) as target:
        target.begin()
        target.catch_up(server.serial)
        yield target


def commit_file(server: ScriptedPrimary, relpath: str, answer: bytes | int, *, digest: bool = True) -> None:
    """Commit a file for which the primary then has this answer."""
    server.files[relpath] = answer
    server.commit({relpath: ("STAGEFILE", -1, value(CONTENT, digest=digest))})


def faults(target: Target) -> list[tuple[str, str]]:
    """Return the faults: path and kind."""
    return [(fault.relpath, fault.kind) for fault in target.store.faults()]


PRIVATE, MIRROR, ORPHAN = "u/dev/+f/aaa/a/x.zip", "u/pypi/+f/aaa/a/x.zip", "u/gone/+f/aaa/a/x.zip"


class TestVerdicts:
    """What an answer about a file means for its serial."""

    @pytest.mark.parametrize(
        ("relpath", "answer"),
        [
            (PRIVATE, 410),
            (MIRROR, 410),
            (ORPHAN, 410),
            (ORPHAN, 404),
            (MIRROR, 302),
        ],
    )
    def test_files_that_nobody_can_have_are_in_order(
        self, target: Target, server: ScriptedPrimary, relpath: str, answer: int
    ) -> None:
        commit_file(server, relpath, answer)
        target.catch_up(1)
        assert faults(target) == []
        counts = target.store.file_counts()
        assert (counts.total, counts.missing, counts.absent) == (1, 1, 1)

    @pytest.mark.parametrize("answer", [400, 500, b"something else"])
    def test_what_may_pass_at_a_mirror_holds_the_serial_for_two_tries_and_no_longer(
        self, target: Target, server: ScriptedPrimary, answer: bytes | int
    ) -> None:
        commit_file(server, MIRROR, answer)
        for _try in (1, 2):
            with pytest.raises(FilesMissing):
                target.catch_up(1)
        target.catch_up(1)
        assert faults(target) == [(MIRROR, "mirror")]

    @pytest.mark.parametrize("answer", [404, 502])
    def test_a_mirrors_file_that_cannot_be_had_is_a_fault_that_is_tried_again_and_the_serial_goes_on(
        self, target: Target, server: ScriptedPrimary, answer: bytes | int
    ) -> None:
        commit_file(server, MIRROR, answer)
        target.catch_up(1)
        assert faults(target) == [(MIRROR, "mirror")]
        assert target.store.faults()[0].next_try is not None
        assert target.store.wanted_file(MIRROR) is not None

    @pytest.mark.parametrize(
        ("relpath", "answer"),
        [(PRIVATE, 404), (PRIVATE, 302), (PRIVATE, 500), (PRIVATE, 502), (PRIVATE, b"other"), (MIRROR, 500)],
    )
    def test_a_serial_waits_for_a_file_that_should_be_there(
        self, target: Target, server: ScriptedPrimary, relpath: str, answer: bytes | int
    ) -> None:
        commit_file(server, relpath, answer)
        for tries in (1, 2):
            with pytest.raises(FilesMissing, match=r"x\.zip") as caught:
                target.catch_up(1)
            assert caught.value.serial == 1
            assert target.store.last_serial() == 0
            assert [(fault.kind, fault.tries) for fault in target.store.faults()] == [("held", tries)]
        server.files[relpath] = CONTENT
        target.catch_up(1)
        assert target.store.faults() == []
        assert target.store.file_counts().missing == 0

    def test_what_the_operator_skipped_does_not_hold_the_serial(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        commit_file(server, PRIVATE, 404)
        target.store.put_faults((Fault(PRIVATE, 1, "skipped", "x"),))
        target.catch_up(1)
        assert faults(target) == [(PRIVATE, "skipped")]
        assert target.store.last_serial() == 1

    @pytest.mark.parametrize("relpath", ["u/dev/+f/aaa/a/x#y.zip", "u/pypi/+f/aaa/a/" + "x" * 256])
    def test_files_that_can_never_be_had_are_named_and_never_asked_for(
        self, target: Target, server: ScriptedPrimary, relpath: str
    ) -> None:
        commit_file(server, relpath, CONTENT)
        asked = len(server.requests)
        target.catch_up(1)
        assert faults(target) == [(relpath, "unfetchable")]
        assert all("changelog" in request.url.path for request in server.requests[asked:])

    def test_the_type_of_an_index_is_that_of_the_batch_that_makes_it(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        server.commit({"v/.config": ("USER", -1, {"indexes": {"m": {"type": "mirror"}}})})
        commit_file(server, "v/m/+f/a/b/x.zip", 404)
        target.catch_up(2)
        assert faults(target) == [("v/m/+f/a/b/x.zip", "mirror")]

    def test_serials_before_the_one_that_waits_are_committed(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        commit_file(server, A, CONTENT)
        commit_file(server, PRIVATE, 404)
        commit_file(server, B, CONTENT)
        with pytest.raises(FilesMissing):
            target.catch_up(3)
        assert target.store.last_serial() == 1
        assert target.store.wanted_file(A) is None

    def test_changes_are_a_stage_with_a_total_and_their_absence_is_none(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """What `follow` shows says how much there is to do now, whenever it began."""
        target.catch_up(target.pipeline.check_identity().serial)
        target.progress.stages.clear()
        target.pipeline.step(poll=False)
        assert target.progress.stages == []
        for number in (2, 3):
            for _ in range(number):
                server.commit({})
            target.pipeline.step(poll=False)
        assert target.progress.stages == [("changes", 2, "serials"), ("changes", 3, "serials")]

    def test_changes_that_came_while_the_primary_waited_are_a_stage_of_their_own(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """Its answer names the serial before them, so that they are none of the last stage's total."""
        target.catch_up(target.pipeline.check_identity().serial)
        target.progress.stages.clear()
        server.began_at = server.serial
        server.commit({})
        target.pipeline.step(poll=True)
        assert target.store.last_serial() == server.serial
        assert target.progress.stages == [("changes", None, "serials")]

    def test_after_an_error_the_stage_goes_on(self, target: Target, server: ScriptedPrimary) -> None:
        """What was done of it stays done, and nothing is counted twice."""
        target.progress.stages.clear()
        commit_file(server, A, CONTENT)
        commit_file(server, PRIVATE, 404)
        commit_file(server, B, CONTENT)
        for _ in range(3):
            with pytest.raises(FilesMissing):
                target.catch_up(3)
        server.files[PRIVATE] = CONTENT
        target.catch_up(3)
        assert target.progress.stages == [("changes", 3, "serials")]
        assert target.progress.done == 3

    def test_a_file_that_is_fetched_in_several_tries_is_counted_once(
        self, folder: Path, server: ScriptedPrimary
    ) -> None:
        """Whether it was refused, or came before the connection was lost, and was not recorded."""

        def go_down() -> httpx.Response:
            server.down = True
            raise httpx.ConnectError("connection refused")

        commit_file(server, A, CONTENT)
        commit_file(server, B, CONTENT)
        server.files[B] = go_down
        commit_file(server, PRIVATE, CONTENT)
        with closing(Target(folder / "cloned", server, Trap(), entries=100, cloning=True)) as target:
            target.begin()
            target.catch_up(server.serial, metadata_only=True)
            fetch_all = target.pipeline.wanted.fetch_all
            target.progress.stage("files", 3, "files")
            for _ in range(2):
                with pytest.raises(PrimaryUnreachable):
                    fetch_all()
                server.down = False
            for answer in (404, 404):
                server.files[B] = answer
                with pytest.raises(FilesMissing):
                    fetch_all()
                assert target.progress.done == 2
            server.files[B] = CONTENT
            fetch_all()
            assert target.progress.done == 3


def foreign(status: int, headers: dict[str, str] | None = None) -> Callable[[], httpx.Response]:
    """Return what answers with a status, and not as a devpi-server."""
    said = {"Server": "wall", **(headers or {})}
    return lambda: httpx.Response(status, headers=said, stream=Body(b"<b>Go away</b>"))


def failing(error: Exception) -> Callable[[], httpx.Response]:
    """Return what fails in the place of an answer."""

    def fail() -> httpx.Response:
        raise error

    return fail


def cut() -> httpx.Response:
    """Return an answer that breaks off."""
    return httpx.Response(200, headers=answers(), stream=Body(CONTENT[:10], httpx.ReadError("reset")))


# A time, by the server's own clock.
RETRY_AT = {"Date": "Sun, 22 Nov 2026 11:00:00 GMT", "Retry-After": "Sun, 22 Nov 2026 11:02:00 GMT"}


def seconds_until(moment: str) -> float:
    """Return the seconds until a time."""
    return clock.epoch(moment) - clock.epoch(clock.now())


BAD_ANSWERS = [
    *(401, 403, 408, 429, 500, 502, 503, 504),
    *(foreign(status) for status in (302, 401, 403, 404, 410, 429, 451, 500, 502, 503)),
    foreign(200),
    lambda: httpx.Response(200, headers=answers(content_encoding="gzip"), stream=Body(CONTENT)),
    lambda: httpx.Response(200, headers=answers(content_length="2999"), stream=Body(CONTENT)),
    lambda: httpx.Response(410, headers=answers("another"), stream=Body(b"")),
    failing(httpx.ReadTimeout("silence")),
    failing(httpx.ConnectTimeout("silence")),
    failing(httpx.ConnectError("refused")),
    failing(httpx.RemoteProtocolError("nonsense")),
    cut,
]


class TestOneFilesTrouble:
    """What is wrong with one file is that file's, as long as the primary answers at all."""

    @pytest.mark.parametrize("answer", BAD_ANSWERS, ids=lambda answer: getattr(answer, "__name__", answer))
    def test_a_private_file_holds_its_serial_and_can_be_skipped(
        self, target: Target, server: ScriptedPrimary, answer: int | Callable[[], httpx.Response]
    ) -> None:
        commit_file(server, A, CONTENT)
        server.files[PRIVATE] = answer
        server.commit({path: ("STAGEFILE", -1, value(CONTENT)) for path in (PRIVATE, B)})
        server.files[B] = CONTENT
        for tries in (1, 2, 3):
            with pytest.raises(FilesMissing, match=r"x\.zip"):
                target.catch_up(2)
            [fault] = target.store.faults()
            assert (fault.relpath, fault.kind, fault.tries) == (PRIVATE, "held", tries)
            assert fault.reason.isprintable()
        assert target.store.last_serial() == 1
        assert (target.serverdir.files / B).read_bytes() == CONTENT, "the others are fetched"
        target.store.put_faults((replace(fault, kind="skipped", tries=0),))
        target.catch_up(2)
        assert faults(target) == [(PRIVATE, "skipped")]

    @pytest.mark.parametrize("answer", BAD_ANSWERS, ids=lambda answer: getattr(answer, "__name__", answer))
    def test_a_mirrors_file_is_a_fault_after_two_tries_at_the_latest(
        self, target: Target, server: ScriptedPrimary, answer: int | Callable[[], httpx.Response]
    ) -> None:
        server.files[MIRROR] = answer
        server.commit({MIRROR: ("STAGEFILE", -1, value(CONTENT))})
        for _try in (1, 2):
            with suppress(FilesMissing):
                target.catch_up(1)
        target.catch_up(1)
        assert faults(target) == [(MIRROR, "mirror")]
        server.commit({})
        server.files[MIRROR] = foreign(418)
        target.store.change_faults({"next_try": "2020-01-01T00:00:00.000Z"})
        target.pipeline.wanted.retry()
        [fault] = target.store.faults()
        assert fault.kind == "mirror"
        assert (fault.next_try or "") > clock.now(), "a failure of a new kind has its wait too"

    @pytest.mark.parametrize("headers", [{"Retry-After": "120"}, RETRY_AT], ids=["seconds", "time"])
    def test_the_wait_that_a_server_asks_for_is_kept_also_by_the_next_run(
        self, target: Target, server: ScriptedPrimary, headers: dict[str, str]
    ) -> None:
        server.files[PRIVATE] = foreign(503, headers)
        server.commit({PRIVATE: ("STAGEFILE", -1, value(CONTENT))})
        with pytest.raises(FilesMissing, match="; next try at "):
            target.catch_up(1)
        [fault] = target.store.faults()
        assert 100 < seconds_until(fault.next_try or "") <= 120
        server.files[PRIVATE] = CONTENT
        with pytest.raises(FilesMissing):
            target.catch_up(1)
        target.store.change_faults({"next_try": clock.now()})
        target.catch_up(1)
        assert faults(target) == []

    def test_a_file_that_arrives_wrong_again_and_again_is_asked_for_less_often(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """All of it is downloaded each time; one that is refused costs nothing, and is always asked for."""
        server.files[PRIVATE] = b"a broken copy"
        server.commit({PRIVATE: ("STAGEFILE", -1, value(CONTENT))})
        waits = []
        for tries in range(1, 7):
            with pytest.raises(FilesMissing, match="its sha256 is "):
                target.catch_up(1)
            [fault] = target.store.faults()
            assert fault.tries == tries
            waits.append(fault.next_try and round(seconds_until(fault.next_try) / 60))
            target.store.change_faults({"next_try": None})
        assert waits == [None, None, None, 1, 2, 4]

    def test_a_file_that_is_skipped_while_it_is_judged_stays_skipped(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """Who gave the file up is an operator in another process, at any moment."""

        def skipping() -> httpx.Response:
            target.store.put_faults((Fault(PRIVATE, 1, "held", "x"),))
            assert target.store.change_faults({"kind": "skipped"}) == 1
            return foreign(403)()

        server.files[PRIVATE] = skipping
        server.commit({PRIVATE: ("STAGEFILE", -1, value(CONTENT))})
        with suppress(FilesMissing):
            target.catch_up(1)
        assert faults(target) == [(PRIVATE, "skipped")]
        target.catch_up(1)
        assert target.store.last_serial() == 1

    def test_who_answered_is_named(self, target: Target, server: ScriptedPrimary) -> None:
        server.files[PRIVATE] = foreign(403)
        server.commit({PRIVATE: ("STAGEFILE", -1, value(CONTENT))})
        with pytest.raises(FilesMissing, match="the answer was 403, without the headers"):
            target.catch_up(1)
        assert "(Server: wall): Go away" in target.store.faults()[0].reason

    def test_a_primary_that_is_gone_is_everybodys_trouble(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """No file is a fault then, and hardly any is asked for."""
        names = [f"u/dev/+f/aaa/a/{number}.zip" for number in range(50)]
        for name in names:
            commit_file(server, name, CONTENT)

        def dies() -> httpx.Response:
            server.down = True
            raise httpx.ReadError("the connection was lost")

        server.files[names[3]] = dies
        with pytest.raises(PrimaryUnreachable, match="connection refused"):
            target.catch_up(server.serial)
        assert faults(target) == []
        asked = [one for one in server.requests if b"/u/dev/" in one.extensions.get("target", b"")]
        assert len(asked) <= 6
        server.down = False
        server.files[names[3]] = CONTENT
        target.catch_up(server.serial)
        assert target.store.file_counts().missing == 0

    def test_what_was_learnt_before_the_primary_went_is_kept(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """And a mirror's file that it did not have is not asked for again before its time."""
        other = "u/pypi/+f/aaa/a/y.zip"
        server.files |= {MIRROR: 404, PRIVATE: 404}
        server.commit({path: ("STAGEFILE", -1, value(CONTENT)) for path in (MIRROR, PRIVATE, other)})

        def dies() -> httpx.Response:
            server.down = True
            raise httpx.ReadError("the connection was lost")

        server.files[other] = dies
        with pytest.raises(PrimaryUnreachable):
            target.catch_up(1)
        assert faults(target) == [(PRIVATE, "held"), (MIRROR, "mirror")]
        server.down = False
        server.files |= {PRIVATE: CONTENT, other: CONTENT, MIRROR: CONTENT}
        target.catch_up(1)
        assert faults(target) == [(MIRROR, "mirror")]
        assert target.store.faults()[0].tries == 1
        target.store.change_faults({"next_try": clock.now()})
        target.pipeline.wanted.retry()
        assert faults(target) == []

    def test_a_clone_fetches_all_other_files_in_its_first_run(
        self, folder: Path, server: ScriptedPrimary
    ) -> None:
        names = [f"u/dev/+f/aaa/a/{number}.zip" for number in range(300)]
        for name in names:
            commit_file(server, name, CONTENT)
        server.files[names[7]] = foreign(500)
        with closing(Target(folder / "clone", server, Trap(), entries=100, cloning=True)) as target:
            target.begin()
            with pytest.raises(FilesMissing):
                target.clone(server.serial)
            assert faults(target) == [(names[7], "held")]
            assert target.store.file_counts().missing == 1
            [fault] = target.store.faults()
            target.store.put_faults((replace(fault, kind="skipped"),))
            target.clone(server.serial)
            assert target.store.last_serial() == server.serial


class TestOrder:
    """At the instant of a commit every file that it needs is in place or staged, whole."""

    def test_files_are_there_before_their_serial_and_go_after_it(
        self, folder: Path, server: ScriptedPrimary
    ) -> None:
        seen: list[tuple[int, list[str]]] = []

        with closing(Target(folder / "t", server, Trap(), entries=1)) as target:
            target.begin()
            for op in (
                put(a=(A, CONTENT, True)),
                put(t=(TOX, b"one", True)),
                put(t=(TOX, b"two", True)),
                drop(A),
            ):
                op(server)
                target.catch_up(server.serial)
                files = target.serverdir.files
                present = sorted(
                    path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()
                )
                seen.append((target.store.last_serial(), present))
        assert seen == [(1, [A]), (2, [A, TOX]), (3, [A, TOX]), (4, [TOX])]

    def test_a_replaced_file_keeps_its_old_content_until_its_serial_is_committed(
        self, folder: Path, server: ScriptedPrimary
    ) -> None:
        root = folder / "target"
        put(t=(TOX, b"old", True))(server)
        with closing(Target(root, server, Trap(), entries=1)) as target:
            target.begin()
            target.catch_up(1)
        put(t=(TOX, b"new", True))(server)
        trap = Trap()
        with closing(Target(root, server, trap, entries=1)) as target:
            target.begin()
            target.catch_up(2)
        calls = [name for name in trap.names if name in ("files.receive", "files.place", "store.commit")]
        assert calls[calls.index("files.receive") :][:3] == ["files.receive", "store.commit", "files.place"]
        assert (root / "+files" / TOX).read_bytes() == b"new"
        kept = [path.read_bytes() for path in (root / ".replisync" / "retained").iterdir()]
        assert kept == [b"old"]

    def test_a_file_that_is_here_already_is_not_fetched_again(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        (target.serverdir.files / A).parent.mkdir(parents=True)
        (target.serverdir.files / A).write_bytes(CONTENT)
        commit_file(server, A, 500)
        target.catch_up(1)
        assert target.store.file_counts().missing == 0

    def test_a_file_with_another_digest_is_fetched_again(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        (target.serverdir.files / A).parent.mkdir(parents=True)
        (target.serverdir.files / A).write_bytes(CONTENT[:-1] + b"b")
        commit_file(server, A, CONTENT)
        target.catch_up(1)
        assert (target.serverdir.files / A).read_bytes() == CONTENT


class TestRetries:
    """Mirrors' files whose time has come are asked for again."""

    def test_a_file_that_can_be_had_now_is_had_now(self, target: Target, server: ScriptedPrimary) -> None:
        commit_file(server, MIRROR, 404)
        target.catch_up(1)
        server.files[MIRROR] = CONTENT
        target.pipeline.wanted.retry()
        assert faults(target) == [(MIRROR, "mirror")], "its time has not come"
        target.store.change_faults({"next_try": "2020-01-01T00:00:00.000Z"})
        target.pipeline.wanted.retry()
        assert faults(target) == []
        assert (target.serverdir.files / MIRROR).read_bytes() == CONTENT

    def test_a_time_that_was_set_by_a_wrong_clock_is_not_waited_for(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        commit_file(server, MIRROR, 404)
        target.catch_up(1)
        server.files[MIRROR] = CONTENT
        target.store.change_faults({"next_try": clock.later(3 * 86400)})
        target.pipeline.wanted.retry()
        assert faults(target) == []

    def test_new_content_takes_the_place_of_the_old(self, target: Target, server: ScriptedPrimary) -> None:
        put(n=(NOMD5, b"old", True))(server)
        target.catch_up(1)
        put(n=(NOMD5, b"new", True))(server)
        server.files[NOMD5] = 404
        target.catch_up(2)
        assert faults(target) == [(NOMD5, "mirror")]
        server.files[NOMD5] = b"new"
        target.store.change_faults({"next_try": "2020-01-01T00:00:00.000Z"})
        target.pipeline.wanted.retry()
        assert target.store.file_counts().missing == 0
        assert (target.serverdir.files / NOMD5).read_bytes() == b"new"
        target.pipeline.recover()
        assert (target.serverdir.files / NOMD5).read_bytes() == b"new"

    def test_waits_between_tries_grow(self, target: Target, server: ScriptedPrimary) -> None:
        commit_file(server, MIRROR, 404)
        target.catch_up(1)
        moments = []
        for _ in range(3):
            target.store.change_faults({"next_try": "2020-01-01T00:00:00.000Z"})
            target.pipeline.wanted.retry()
            moments.append(target.store.faults()[0].next_try or "")
        assert moments == sorted(set(moments))
        assert target.store.faults()[0].tries == 4

    def test_a_file_that_nobody_wants_any_more_is_not_asked_for(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        commit_file(server, MIRROR, 404)
        target.catch_up(1)
        drop(MIRROR)(server)
        target.catch_up(2)
        assert faults(target) == []
        asked = len(server.requests)
        target.pipeline.wanted.retry()
        assert len(server.requests) == asked


class TestIdentity:
    """Who answers is made sure of before anything is written."""

    def test_another_entry_at_our_serial_is_another_history(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        server.entries[0] = server.entries[0].replace(b"dev", b"veD")
        commit_file(server, A, CONTENT)
        server.connection = object()
        before = state(target.serverdir.root)
        with pytest.raises(WrongHistory, match="another entry at our last serial") as caught:
            target.catch_up(1)
        assert caught.value.serial == 0
        assert state(target.serverdir.root) == before

    def test_a_primary_behind_us_is_another_history(self, target: Target, server: ScriptedPrimary) -> None:
        server.entries.clear()
        with pytest.raises(WrongHistory, match="behind ours"):
            target.pipeline.check_identity()
        with pytest.raises(WrongHistory, match="behind ours"):
            target.pipeline.step(poll=False)

    def test_another_server_is_another_history(self, target: Target, server: ScriptedPrimary) -> None:
        server.uuid = "another"
        with pytest.raises(WrongHistory, match="another server"):
            target.pipeline.step(poll=False)

    def test_after_an_error_the_same_connection_is_asked_again(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        """A proxy keeps the connection while the server behind it is replaced."""
        commit_file(server, PRIVATE, 404)
        with pytest.raises(FilesMissing):
            target.catch_up(1)
        server.files[PRIVATE] = CONTENT
        server.entries[0] = server.entries[0].replace(b"dev", b"veD")
        with pytest.raises(WrongHistory):
            target.catch_up(1)
        assert target.store.last_serial() == 0

    def test_the_order_of_a_set_in_our_last_entry_does_not_matter(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        names = sorted(f"name{number}" for number in range(30))
        server.commit({"u/dev/.projects": ("PROJNAMES", -1, set(names))})
        target.catch_up(1)
        server.entries[1] = _with_names_in_order(server.entries[1], names[::-1])
        server.connection = object()
        assert target.pipeline.check_identity().serial == 1

    def test_a_serial_of_somebody_else_is_noticed(self, target: Target, server: ScriptedPrimary) -> None:
        target.pipeline.step(poll=False)
        with closing(Target(target.serverdir.root, server, Trap(), entries=1)) as other:
            commit_file(server, A, CONTENT)
            other.catch_up(1)
        commit_file(server, B, CONTENT)
        with pytest.raises(ForeignWriter):
            target.pipeline.step(poll=False)
        assert target.store.last_serial() == 1

    def test_a_serial_of_somebody_else_is_noticed_after_an_error_too(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        target.pipeline.step(poll=False)
        server.down = True
        with pytest.raises(PrimaryUnreachable):
            target.pipeline.step(poll=False)
        server.down = False
        commit_file(server, A, CONTENT)
        with closing(Target(target.serverdir.root, server, Trap(), entries=1)) as other:
            other.catch_up(1)
        with pytest.raises(ForeignWriter):
            target.pipeline.step(poll=False)

    def test_a_row_of_a_devpi_server_is_noticed_before_the_primary_is_asked(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        target.catch_up(0)
        commit_file(server, A, CONTENT)
        with closing(sqlite3.connect(target.serverdir.root / ".sqlite")) as database, database:
            database.execute("INSERT INTO changelog (serial, data) VALUES (1, x'00')")
        asked = len(server.requests)
        with (
            closing(Target(target.serverdir.root, server, Trap(), entries=1)) as fresh,
            pytest.raises(ForeignWriter, match="our last commit was 0"),
        ):
            fresh.pipeline.step(poll=False)
        assert len(server.requests) == asked


def _with_names_in_order(raw: bytes, names: list[str]) -> bytes:
    """Return an entry whose set of names was written in another order."""
    items = [b"N" + len(name).to_bytes(4, "big") + name.encode() for name in names]
    start = min(raw.index(item) for item in items)
    end = max(raw.index(item) + len(item) for item in items)
    return raw[:start] + b"".join(items) + raw[end:]


class TestDamage:
    """A corrupt entry ends the run; what came before it is committed, nothing of it is."""

    def test_entries_before_a_corrupt_one_are_committed(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        commit_file(server, A, CONTENT)
        commit_file(server, B, CONTENT)
        server.entries[2] = b"\0garbage"
        with pytest.raises(CorruptEntry) as caught:
            target.catch_up(2)
        assert caught.value.serial == 2
        assert target.store.last_serial() == 1
        assert (target.serverdir.files / A).exists()

    def test_a_limit_in_between_is_not_passed(self, target: Target, server: ScriptedPrimary) -> None:
        for number in range(5):
            commit_file(server, f"u/dev/+f/a/b/{number}.zip", CONTENT)
        target.catch_up(3)
        assert target.store.last_serial() == 3
        assert len(list(target.serverdir.files.rglob("*.zip"))) == 3

    def test_what_is_stored_names_no_file_of_the_primarys_own(
        self, target: Target, server: ScriptedPrimary
    ) -> None:
        put(a=(A, CONTENT, True))(server)
        assert b"-tmp" in server.entries[1]
        target.catch_up(1)
        assert b"-tmp" not in (target.store.entry_data(1) or b"")
