"""Which failures are borne, for how long, and what ends the waiting."""

import itertools
from collections.abc import Callable

import pytest

from replisync import errors
from replisync.errors import (
    BrokenStream,
    ConditionFailed,
    FilesMissing,
    LocalFailure,
    PrimaryUnreachable,
    ReplisyncError,
    Stopped,
    WrongHistory,
)
from replisync.replication.loop import Patience, catch_up, follow
from replisync.system.stop import Stop
from tests.fakes import RecordingLog, RecordingStop

TRANSIENT = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, ReplisyncError) and cls.transient
]
FINAL = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, ReplisyncError) and not cls.transient
]


class Work:
    """Work that fails as it is told, one error for each try, and then returns the number of tries."""

    def __init__(self, *failures: BaseException | type[ReplisyncError]) -> None:
        self.failures = list(failures)
        self.tries = 0

    def __call__(self) -> int:
        self.tries += 1
        if self.failures:
            failure = self.failures.pop(0)
            raise failure("work", "it failed") if isinstance(failure, type) else failure
        return self.tries


def patience(stop: RecordingStop, log: RecordingLog | None = None, **options: object) -> Patience:
    """Return patience without end, unless told otherwise."""
    return Patience(stop, log or RecordingLog(), **{"seconds": None, **options})  # type: ignore[arg-type]


class TestWhatIsBorne:
    """Transient errors are tried again; of this machine's own failures only where asked for."""

    @pytest.mark.parametrize("error", [cls for cls in TRANSIENT if not issubclass(cls, LocalFailure)])
    def test_what_may_pass_is_tried_again(self, error: type[ReplisyncError]) -> None:
        stop, work = RecordingStop(), Work(error, error, error)
        assert patience(stop).call(work) == 4
        assert len(stop.waits) == 3

    @pytest.mark.parametrize("error", FINAL)
    def test_what_cannot_pass_is_raised_at_once(self, error: type[ReplisyncError]) -> None:
        stop, work = RecordingStop(), Work(error)
        with pytest.raises(error):
            patience(stop, local=True).call(work)
        assert work.tries == 1
        assert stop.waits == []

    def test_failures_of_this_machine_are_raised_unless_they_are_to_be_waited_out(self) -> None:
        with pytest.raises(LocalFailure):
            patience(RecordingStop()).call(Work(LocalFailure))
        assert patience(RecordingStop(), local=True).call(Work(LocalFailure, LocalFailure)) == 3

    @pytest.mark.parametrize("error", [ValueError("x"), OSError(28, "x"), KeyboardInterrupt()], ids=repr)
    def test_errors_of_nobody_are_raised_at_once(self, error: BaseException) -> None:
        work = Work(error)
        with pytest.raises(type(error)):
            patience(RecordingStop(), local=True).call(work)
        assert work.tries == 1

    def test_a_failure_after_ones_that_may_pass_is_raised_as_it_is(self) -> None:
        work = Work(PrimaryUnreachable, BrokenStream, WrongHistory)
        with pytest.raises(WrongHistory):
            patience(RecordingStop()).call(work)
        assert work.tries == 3

    def test_each_try_after_a_failure_is_said_with_its_reason(self) -> None:
        log = RecordingLog()
        patience(RecordingStop(), log).call(Work(PrimaryUnreachable, FilesMissing))
        assert [(level, event) for level, event, _ in log.lines] == [
            ("warning", "retrying"),
            ("warning", "retrying"),
            ("info", "resumed"),
        ]
        assert "it failed" in log.lines[0][2]["error"]


class TestWaits:
    """Waits grow up to a bound, vary, and begin anew after a success."""

    def test_waits_grow_and_are_bounded(self) -> None:
        stop = RecordingStop()
        patience(stop).call(Work(*[PrimaryUnreachable] * 20))
        assert all(0.4 <= wait <= 31 for wait in stop.waits)
        assert stop.waits[0] < 2
        assert stop.waits[4] > stop.waits[0]
        assert all(wait >= 29 for wait in stop.waits[10:])

    def test_waits_of_several_followers_differ(self) -> None:
        stop = RecordingStop()
        patience(stop).call(Work(*[PrimaryUnreachable] * 20))
        assert len(set(stop.waits[10:])) > 1

    def test_a_success_begins_anew(self) -> None:
        stop = RecordingStop()
        bearing = patience(stop)
        bearing.call(Work(*[PrimaryUnreachable] * 10))
        assert stop.waits[-1] > 25
        bearing.call(Work(PrimaryUnreachable))
        assert stop.waits[-1] < 2

    def test_a_try_that_got_on_before_it_failed_begins_anew(self) -> None:
        stop, serial = RecordingStop(), itertools.count()
        patience(stop).call(Work(*[BrokenStream] * 10), progress=lambda: next(serial))
        assert len(stop.waits) == 10
        assert max(stop.waits) < 2

    def test_a_try_that_did_not_get_on_does_not(self) -> None:
        stop = RecordingStop()
        patience(stop).call(Work(*[BrokenStream] * 10), progress=lambda: 7)
        assert max(stop.waits) > 25


class TestEnds:
    """Patience ends by time, by the deadline of the run, and by a signal."""

    def test_when_patience_is_at_its_end_the_last_error_is_raised(self) -> None:
        work = Work(*[PrimaryUnreachable] * 1_000_000)
        with pytest.raises(PrimaryUnreachable):
            patience(RecordingStop(), seconds=0.05).call(work)
        assert work.tries > 1

    def test_no_wait_goes_beyond_the_end_of_patience(self) -> None:
        stop = RecordingStop()
        with pytest.raises(PrimaryUnreachable):
            patience(stop, seconds=0.05).call(Work(*[PrimaryUnreachable] * 1_000_000))
        assert max(stop.waits) <= 0.05

    def test_no_wait_goes_beyond_the_limit_of_the_run(self) -> None:
        stop, work = RecordingStop(), Work(*[PrimaryUnreachable] * 1_000_000)
        stop.limit(0.05)
        with pytest.raises(ReplisyncError):
            patience(stop, seconds=60).call(work)
        assert max(stop.waits) <= 0.05

    def test_what_kept_failing_until_the_limit_is_what_is_raised(self) -> None:
        """So that a primary that is away is told from a run that was merely too short."""
        stop, work = Stop(), Work(*[PrimaryUnreachable] * 100)
        stop.limit(0.1)
        with pytest.raises(PrimaryUnreachable):
            Patience(stop, RecordingLog(), seconds=60).call(work)
        assert stop.left() == 0

    def test_after_the_limit_nothing_is_begun(self) -> None:
        stop, work = RecordingStop(), Work()
        stop.limit(-1)
        with pytest.raises(ConditionFailed, match="--timeout passed"):
            patience(stop).call(work)
        assert work.tries == 0

    def test_work_that_succeeds_before_the_limit_is_done(self) -> None:
        stop = RecordingStop()
        stop.limit(60)
        assert patience(stop).call(Work(PrimaryUnreachable)) == 2

    def test_a_signal_during_a_wait_ends_it(self) -> None:
        stop, work = RecordingStop(after=3), Work(*[PrimaryUnreachable] * 10)
        with pytest.raises(Stopped):
            patience(stop).call(work)
        assert work.tries == 3

    def test_a_failure_after_a_signal_is_not_tried_again(self) -> None:
        stop = RecordingStop()

        def work() -> None:
            stop.set()
            raise PrimaryUnreachable("work", "the connection was closed")

        with pytest.raises(Stopped):
            patience(stop).call(work)
        assert stop.waits == []


class Steps:
    """A pipeline that has a target at `serial` and a primary at `primary`, and takes one serial a step."""

    def __init__(self, serial: int, primary: int, on_step: Callable[[], None] = lambda: None) -> None:
        self.serial = serial
        self.primary = primary
        self.polls: list[bool] = []
        self.asked_who = 0
        self._on_step = on_step

    def progress(self) -> tuple[int, int]:
        """Return what grows with each step."""
        return self.serial, 0

    def check_identity(self) -> "Steps":
        """Count the question; what answers has the primary's serial."""
        self.asked_who += 1
        answer = Steps(self.serial, self.primary)
        answer.serial = self.primary
        return answer

    def step(self, *, poll: bool, last: int | None = None, metadata_only: bool = False) -> int:
        """Go one serial on."""
        self.polls.append(poll)
        self._on_step()
        self.serial += 1
        assert last is None or self.serial <= last
        assert not metadata_only
        return self.primary


def run(steps: Steps, **options: int) -> int:
    """Catch up with patience without end."""
    return catch_up(steps, lambda: steps.serial, patience(RecordingStop()), **options)  # type: ignore[arg-type]


class TestCatchUp:
    """Everything up to the primary's serial as of the call, or up to the serial that was asked for."""

    def test_steps_are_taken_up_to_the_primarys_serial_without_polling(self) -> None:
        steps = Steps(3, 7)
        assert run(steps) == 7
        assert (steps.serial, steps.polls, steps.asked_who) == (7, [False] * 4, 1)

    def test_with_nothing_to_do_no_step_is_taken(self) -> None:
        steps = Steps(7, 7)
        assert run(steps) == 7
        assert steps.polls == []

    def test_a_serial_in_between_is_not_passed(self) -> None:
        steps = Steps(3, 7)
        assert run(steps, to_serial=5) == 5
        assert steps.serial == 5

    @pytest.mark.parametrize(
        ("to_serial", "words"), [(2, "at serial 3 already"), (8, "the primary is at serial 7")]
    )
    def test_a_serial_that_cannot_be_reached_is_refused_before_any_step(
        self, to_serial: int, words: str
    ) -> None:
        steps = Steps(3, 7)
        with pytest.raises(ConditionFailed, match=words):
            run(steps, to_serial=to_serial)
        assert steps.polls == []

    def test_what_the_primary_commits_meanwhile_is_left(self) -> None:
        def commit() -> None:
            steps.primary += 1

        steps = Steps(3, 7, commit)
        assert run(steps) == 7
        assert steps.serial == 7


class TestFollow:
    """Steps that poll, until an error that does not pass."""

    def test_polls_that_are_answered_at_once_without_news_are_not_asked_in_a_storm(self) -> None:
        def give_up_in_a_storm() -> None:
            assert len(steps.polls) < 10

        stop, steps = RecordingStop(after=2), Steps(7, 7, give_up_in_a_storm)
        with pytest.raises(Stopped):
            follow(
                steps,  # type: ignore[arg-type]
                lambda: 7,
                patience(stop),
                on_step=lambda: None,
                chores=lambda: None,
                clock=lambda: 0.0,
            )
        assert (len(steps.polls), stop.waits) == (4, [1.0, 1.0])

    def test_a_poll_that_ends_early_is_no_failure_if_the_primary_answers_at_once(self) -> None:
        """Three in a row are said once; an end at once, or of a primary that is away, is a failure."""
        now = 0.0
        away = False

        def end_early() -> None:
            nonlocal now
            if len(steps.polls) > 9:
                raise Stopped("the run", "enough")
            if steps.polls[-1]:
                now += 5.0
            if steps.polls[-1] or away:
                raise PrimaryUnreachable("the poll", "it answered 504")

        log, steps = RecordingLog(), Steps(7, 7, end_early)
        with pytest.raises(Stopped):
            follow(
                steps,  # type: ignore[arg-type]
                lambda: 7,
                patience(RecordingStop(), log),
                on_step=lambda: None,
                chores=lambda: None,
                clock=lambda: now,
            )
        assert steps.polls == [True, False] * 5
        assert [event for _, event, _ in log.lines] == ["polls of the changelog end early"]
        away = True
        steps.polls.clear()
        with pytest.raises(PrimaryUnreachable):
            follow(
                steps,  # type: ignore[arg-type]
                lambda: 7,
                patience(RecordingStop(), log, seconds=0.01),
                on_step=lambda: None,
                chores=lambda: None,
                clock=lambda: now,
            )
        assert set(steps.polls[1:]) == {False}, "while it fails, nothing waits for a change"

    def test_it_asks_who_is_there_first_then_polls_until_stopped(self) -> None:
        seen: list[int] = []
        chores: list[int] = []

        def stop_after_three() -> None:
            if len(steps.polls) > 3:
                raise Stopped("the run", "enough")

        steps = Steps(3, 7, stop_after_three)
        with pytest.raises(Stopped):
            follow(
                steps,  # type: ignore[arg-type]
                lambda: steps.serial,
                patience(RecordingStop()),
                on_step=lambda: seen.append(steps.serial),
                chores=lambda: chores.append(steps.serial),
            )
        assert steps.asked_who == 1
        assert steps.polls == [True] * 4
        assert seen == [4, 5, 6]
        assert chores == [4]
