"""`python -m tests.soak MINUTES [SEED]`: ends with one line of figures; exit 1 where anything failed."""

import signal
import sys
import time
import traceback
from datetime import timedelta
from random import SystemRandom
from types import FrameType

from tests.soak.stage import Clock, Stage

INTERRUPTED = 130
TICK_SECONDS = 0.05
VERIFY_SECONDS = 30
DRILL_SECONDS = 150
STATUS_SECONDS = 15


def main() -> int:
    """Run for so many minutes, and leave nothing behind unless something failed."""
    minutes = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else SystemRandom().randrange(1_000_000)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    soak = Soak(Stage(seed))
    try:
        with soak.stage:
            soak.run(minutes * 60)
            soak.failed = soak.failed or soak.stage.memory()[1]
            soak.stage.keep = bool(soak.failed)
            figures = soak.figures()
    except KeyboardInterrupt:
        soak.say("interrupted: processes ended, folder removed")
        return INTERRUPTED
    if soak.failed:
        soak.say(f"FAILED with seed {seed}; what there was is in {soak.stage.folder}\n{soak.failed}")
    print(figures)
    return 1 if soak.failed else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Soak:
    """One soak, from its first tick to its figures."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.failed = ""
        self.verifications = 0
        self._began = time.monotonic()

    def run(self, seconds: float) -> None:
        """Go on until the time is over or something failed."""
        self.say(f"seed {self.stage.seed}, in {self.stage.folder}")
        try:
            self._run(time.monotonic() + seconds)
        except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
            self.failed = traceback.format_exc()

    def _run(self, end: float) -> None:
        verify, drill, status = Clock(VERIFY_SECONDS), Clock(DRILL_SECONDS), Clock(STATUS_SECONDS)
        quiet = False
        while time.monotonic() < end:
            self.stage.tick()
            if verify.due:
                self.stage.verify()
                self.verifications += 1
                verify.restart()
            elif drill.due:
                self.say(self.stage.come_to_rest() if quiet else self.stage.practise())
                quiet = not quiet
                drill.restart()
            elif status.due:
                self._status()
                status.restart()
            time.sleep(TICK_SECONDS)
        self.say(self.stage.come_to_rest())

    def say(self, text: str) -> None:
        """Tell how it goes."""
        passed = timedelta(seconds=int(time.monotonic() - self._began))
        print(f"{passed}  {text}", file=sys.stderr, flush=True)

    def _status(self) -> None:
        record, stage = self.stage.record, self.stage
        lag = ", ".join(f"{keeper.name} {keeper.reached}" for keeper in stage.followers)
        self.say(
            f"serial {stage.judge.history.read()} ({lag}), {record.kills.total()} kills, "
            f"{stage.cloner.done} clones, {self.verifications} verifications; {stage.chaos.names()}"
        )

    def figures(self) -> str:
        """Return the line."""
        stage, record = self.stage, self.stage.record
        kills = ", ".join(f"{count} {name}" for name, count in sorted(record.kills.items()))
        history = stage.judge.history
        return (
            f"soak: {(time.monotonic() - self._began) / 60:.1f} minutes, {len(history.stripped)} serials, "
            f"{history.files_ever} files, {record.kills.total()} kills ({kills}), "
            f"{stage.cloner.done} clones, {sum(stage.chaos.counts.values())} faults, {record.checks} checks, "
            f"{self.verifications} verifications, {stage.drills} drills, "
            f"{stage.memory()[0]} MiB peak, {int(bool(self.failed))} failures"
        )


if __name__ == "__main__":
    sys.exit(main())
