"""Repeat steps until a serial is reached, or until asked to stop."""

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, stop_never
from tenacity.wait import wait_exponential, wait_random

from replisync.changelog.ports import Log
from replisync.errors import (
    ConditionFailed,
    LocalFailure,
    PrimaryUnreachable,
    ReplisyncError,
    Stopped,
    WrongHistory,
)
from replisync.replication.pipeline import Pipeline
from replisync.system.stop import Stop

_T = TypeVar("_T")

# Waits between tries begin with the first, double up to the last, and vary by up to the jitter.
_FIRST_SECONDS = 0.5
_LAST_SECONDS = 30.0
_JITTER_SECONDS = 1.0

# How often `follow` retries files that are due, and removes retained files that have expired.
_CHORES_SECONDS = 60.0

# A primary holds a poll without news for 30 seconds. If something before it, such as a cache, answers each at
# once, this number of polls in a row goes without a wait; then each waits.
_QUICK_SECONDS = 1.0
_QUICK_POLLS = 3

# After this number of polls in a row that something else ended early, such as a proxy, it is reported once.
_ENDED_POLLS = 3


class Patience:
    """Retry policy for transient errors.

    seconds: without progress; None for ever.
    local: whether to retry failures of this machine too (a full disk, a lost database).
    on_trouble: called with the error that is being retried, when it changes, and with None once it passed.
    """

    on_trouble: Callable[[str | None], None] | None = None

    def __init__(
        self,
        stop: Stop,
        log: Log,
        *,
        seconds: float | None,
        local: bool = False,
    ) -> None:
        self._stop = stop
        self.log = log
        self._seconds = seconds
        self._local = local
        self._failure: BaseException | None = None  # of the last try
        self._trouble: str | None = None
        self._failing_since = 0.0

    def call(self, work: Callable[[], _T], progress: Callable[[], object] | None = None) -> _T:
        """Return the result of `work`, in as many tries as patience allows.

        progress: returns a value that changes if a try made progress before it failed; patience and the waits
            then start again.
        Raises the last error, Stopped when asked to stop, ConditionFailed if the time limit passed without
        an error.
        """
        while True:
            self._failure = None
            before = _known(progress)
            try:
                result = self._retrying(lambda: _made_progress(progress, before))(work)  # noqa: B023
                self._tell(None)
                return result
            except ReplisyncError as err:
                if err.transient and self._stop.is_asked():
                    raise Stopped("cannot finish the run", "a signal asked to end it") from err
                limited = isinstance(err, ConditionFailed) and not self._stop.is_asked()
                if limited and self._failure is not None and not _made_progress(progress, before):
                    raise self._failure from None  # it failed until the time limit
                if not self._may_pass(err) or not _made_progress(progress, before):
                    raise
                self.log.warning("retrying", error=str(err), seconds=_FIRST_SECONDS)
                self._tell(str(err))
                self._sleep(_FIRST_SECONDS)

    def attempt(self, work: Callable[[], object]) -> None:
        """Do work that can be postponed: log a transient failure, and return."""
        try:
            work()
        except ReplisyncError as err:
            if not self._may_pass(err):
                raise
            self.log.warning("postponed", error=str(err))

    def pause(self, seconds: float) -> None:
        """Wait; raise Stopped if a signal asked us to stop."""
        self._sleep(seconds)

    def _retrying(self, got_on: Callable[[], bool]) -> Retrying:
        self._stop.check()
        bounds = [bound for bound in (self._seconds, self._stop.left()) if bound is not None]
        bound = min(bounds, default=None)
        backoff = wait_exponential(multiplier=_FIRST_SECONDS, max=_LAST_SECONDS) + wait_random(
            0, _JITTER_SECONDS
        )

        def wait(state: RetryCallState) -> float:
            since = state.seconds_since_start or 0.0
            return backoff(state) if bound is None else max(0.0, min(backoff(state), bound - since))

        return Retrying(
            retry=retry_if_exception(lambda err: self._may_pass(err) and not got_on()),
            wait=wait,
            stop=stop_never if bound is None else stop_after_delay(bound),
            sleep=self._sleep,
            before_sleep=self._report,
            reraise=True,
        )

    def _may_pass(self, err: BaseException) -> bool:
        if not isinstance(err, ReplisyncError) or not err.transient or self._stop.is_set():
            return False
        return self._local or not isinstance(err, LocalFailure)

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)
        if self._stop.is_asked():
            self._stop.check()

    def _report(self, state: RetryCallState) -> None:
        err = state.outcome.exception() if state.outcome else None
        self._failure = err
        wait = state.next_action.sleep if state.next_action else 0.0
        self.log.warning("retrying", error=str(err), seconds=round(wait, 1), attempt=state.attempt_number)
        self._tell(str(err))

    def _tell(self, trouble: str | None) -> None:
        if trouble == self._trouble:
            return
        if self._trouble is None:
            self._failing_since = time.monotonic()
        if trouble is None:
            self.log.info("resumed", after_seconds=round(time.monotonic() - self._failing_since, 1))
        if self.on_trouble is not None:
            self.on_trouble(trouble)
        self._trouble = trouble


def _known(progress: Callable[[], object] | None) -> object:
    """Return a value that shows progress; None if unknown, as while a database is away."""
    try:
        return progress() if progress else None
    except LocalFailure:
        return None


def _made_progress(progress: Callable[[], object] | None, before: object) -> bool:
    now = _known(progress)
    return now is not None and now != before


def catch_up(
    pipeline: Pipeline,
    position: Callable[[], int],
    patience: Patience,
    *,
    to_serial: int | None = None,
    metadata_only: bool = False,
) -> int:
    """Apply all changes up to the primary's current serial, or up to `to_serial`; return that serial.

    position: returns the target's last serial.
    Raises ConditionFailed if `to_serial` is behind us or beyond the primary.
    """
    serial = patience.call(pipeline.check_identity).serial
    if to_serial is not None:
        _check_reachable(position(), serial, to_serial)
        serial = to_serial
    while position() < serial:
        seen = patience.call(
            lambda: pipeline.step(poll=False, last=serial, metadata_only=metadata_only),
            progress=pipeline.progress,
        )
        if seen < serial:
            raise WrongHistory(
                f"cannot catch up to serial {serial}", f"the primary went back to serial {seen} meanwhile"
            )
    return serial


def _check_reachable(ours: int, primary: int, wanted: int) -> None:
    if wanted < ours:
        raise ConditionFailed(
            f"cannot catch up to serial {wanted}", f"the standby is at serial {ours} already"
        )
    if wanted > primary:
        raise ConditionFailed(f"cannot catch up to serial {wanted}", f"the primary is at serial {primary}")


def follow(
    pipeline: Pipeline,
    position: Callable[[], int],
    patience: Patience,
    *,
    on_step: Callable[[], None],
    chores: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Apply each change as it is committed, until Stopped or an error that is not transient.

    position: returns the target's last serial.
    on_step: called after each step.
    chores: called about once a minute.
    clock: returns monotonic seconds.
    """
    patience.call(pipeline.check_identity)
    next_chores = clock()
    quick = 0
    polls = _Polls(pipeline, position, patience.log, clock)
    while True:
        began, before = clock(), _known(position)
        patience.call(polls.step, progress=pipeline.progress)
        patience.call(on_step)
        idle = clock() - began < _QUICK_SECONDS and not _made_progress(position, before)
        quick = quick + 1 if idle else 0
        if quick >= _QUICK_POLLS:
            patience.pause(_QUICK_SECONDS)
        if clock() >= next_chores:
            patience.attempt(chores)
            next_chores = clock() + _CHORES_SECONDS


class _Polls:
    """Steps that wait for a change.

    The end of a wait without an answer, as when a proxy has less patience than the protocol, is no failure if
    the primary itself answers at once.
    """

    def __init__(
        self, pipeline: Pipeline, position: Callable[[], int], log: Log, clock: Callable[[], float]
    ) -> None:
        self._pipeline = pipeline
        self._position = position
        self._log = log
        self._clock = clock
        self._at_once = False  # after an error, its end shows at once
        self._ended = 0

    def step(self) -> None:
        """Apply the next changes, or wait for one."""
        poll, self._at_once = not self._at_once, True
        began, before = self._clock(), _known(self._position)
        try:
            self._pipeline.step(poll=poll)
            self._ended = 0 if poll else self._ended
        except PrimaryUnreachable as err:
            held = self._clock() - began
            if not poll or held < _QUICK_SECONDS or _made_progress(self._position, before):
                raise
            self._pipeline.step(poll=False)
            self._ended += 1
            if self._ended == _ENDED_POLLS:
                self._log.warning(
                    "polls of the changelog end early",
                    why=err.why,
                    after_seconds=round(held, 1),
                    hint="let the proxy before the primary wait 60 seconds for an answer to /+changelog",
                )
        self._at_once = False
