"""Runs of replisync that are killed: of standbys that are kept, and of clones that are made anew."""

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.soak.chaos import Chaos
from tests.support.judge import Judge
from tests.support.pgstandby import PostgresStandby
from tests.support.runs import REPLISYNC, Background, arguments, run_apart
from tests.support.standby import Standby

# A run that is not to be killed, such as the last of a clone, has so long; troubles go on meanwhile.
MOST_SECONDS = 240.0
IMPATIENT = ("--patience", 5)


@dataclass
class Record:
    """What the keepers did.

    kills: SIGKILLs, by command.
    peaks: of memory: the serial that a follower was at, and KiB.
    """

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    peaks: list[tuple[int, int]] = field(default_factory=list)


class Keeper:
    """One target and the command that runs on it, if one does."""

    def __init__(
        self, name: str, standby: Standby, judge: Judge, chaos: Chaos, random: Random, record: Record
    ) -> None:
        self.name, self.standby = name, standby
        self._judge, self._chaos, self._random, self._record = judge, chaos, random, record
        self._run: Background | None = None
        self._command = ""
        self._started = self._due = 0.0
        self._checked = -1  # entries up to here were compared
        self.reached = -1

    @property
    def log(self) -> Path:
        """What the runs say."""
        return self.standby.serverdir.with_name(f"{self.standby.serverdir.name}.log")

    @property
    def running(self) -> bool:
        """Whether a command is at work."""
        return self._run is not None

    def begin(self, command: str, *options: object, life: float) -> None:
        """Start a command that is to be killed after so many seconds."""
        assert self._run is None
        self._command, self._started = command, time.monotonic()
        self._run = Background(self.log, command, *options)
        self._due = self._started + life

    def ended(self) -> int | None:
        """Return the exit code of a run that has ended by itself, which must be excused; else None.

        Raises AssertionError where nothing excuses the code, or a run takes too long.
        """
        if self._run is None:
            return None
        code = self._run.process.poll()
        if code is None:
            assert time.monotonic() < self._started + MOST_SECONDS, self._said("does not come to an end")
            return None
        excuses = self._excuses() | {0}
        assert "Traceback" not in self._run.text, self._said("ended with a traceback")
        assert code in excuses, self._said(f"ended with {code}, and only {sorted(excuses)} is excused")
        self._record.ends[f"{self._command} {code}"] += 1
        self._run = None
        return code

    def _excuses(self) -> set[int]:
        excused = set(self._chaos.excused(self._started))
        if self._command == "follow":
            assert self._run is not None
            excused -= {0, 3} | ({7} if '"event": "following"' in self._run.text else set())
        return excused

    def kill(self, *, politely: bool = False) -> None:
        """End the run; politely means that it must end with 0."""
        run, self._run = self._run, None
        if run is None:
            return
        if self._command == "follow" and (peak := _peak(run.pid)):
            self._record.peaks.append((self.reached, peak))
        if run.process.poll() is not None:
            self._run = run
            self.ended()
            return
        if politely:
            run.process.send_signal(signal.SIGTERM)
            code = run.process.wait(60)
            self._run = run
            deaf = "following" not in run.text  # it was still on its way to where it listens
            assert code == 0 or (deaf and code == -signal.SIGTERM), self._said(
                f"ended with {code} after SIGTERM"
            )
            self._run = None
        else:
            run.kill()
            self._record.kills[self._command] += 1

    def check(self, *, whole: bool = True, again: bool = False) -> None:
        """Judge what is there; `again` compares what was compared before, too."""
        assert self._run is None
        self._chaos.be_readable()
        serial = self._judge.check(self.standby, since=-1 if again else self._checked, whole=whole)
        back_to = "rewind" in self._command
        assert back_to or serial >= self.reached, f"{self.name}: {self.reached} was committed, {serial} is"
        self._checked = self.reached = serial
        self._record.checks += 1

    def kill_and_check(self) -> None:
        """Kill the run, and judge what is left."""
        self.kill()
        if self._run is None:
            self.check()

    def abandon(self) -> None:
        """End the run, whatever it does."""
        if self._run is not None:
            self._run.kill()

    def _said(self, what: str) -> str:
        assert self._run is not None
        return f"{self.name}: {self._command} {what} ({self._chaos.names()}):\n{self._run.text[-3000:]}"


class Follower(Keeper):
    """A standby that follows, or catches up, or is rewound, until the next kill."""

    def tick(self) -> None:
        """Start what is to run next, or end what runs."""
        if self.running:
            if self.ended() is not None:
                self.check()
            elif time.monotonic() > self._due:
                politely = self._command == "follow" and self._random.random() < 0.1
                self.kill(politely=politely)
                self.check()
            return
        choice = self._random.random()
        options = self.standby.with_secret
        if choice < 0.3:
            self.begin("catchup", *options, *IMPATIENT, life=self._random.uniform(0.5, 4))
        elif choice < 0.36 and self.reached > 20:
            back = self._random.randint(1, 15)
            self.begin(
                "rewind", *options, "--to-serial", self.reached - back, life=self._random.uniform(0.5, 2.5)
            )
        elif choice < 0.44:
            self.follow(life=self._random.uniform(20, 60))
        else:
            self.follow(life=self._random.uniform(0.5, 5))

    def follow(self, life: float) -> None:
        """Start to follow."""
        self.begin("follow", *self.standby.with_secret, life=life)

    def verify(self) -> None:
        """Have replisync itself verify the standby, while it is followed and the primary written to."""
        self._chaos.be_readable()
        command = [*REPLISYNC, *arguments("verify", *self.standby.own, "--level", "full", "--json")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
        assert done.returncode in (0, 8), f"{self.name}: verify ended with {done.returncode}:\n{done.stderr}"
        said = json.loads(done.stdout)
        # The last kill may have left files of a serial to come, as whoever goes on will find out.
        self._judge.history.read()
        coming = self._judge.history.touched_after(said["serial"])
        wrong = [
            found
            for found in said["findings"]
            if not (found["kind"] == "superfluous-file" and found["subject"] in coming)
        ]
        assert not wrong, f"{self.name}, verified: {wrong}"
        self._record.checks += 1

    def finish(self, serial: int) -> None:
        """Have a follower reach a serial without any trouble, end it politely, and judge everything."""
        if self.running and self._command != "follow":
            self.kill()
        if self.running and self.ended() is not None:
            self.check()
        if not self.running:
            self.follow(life=MOST_SECONDS)
        assert self._run is not None
        self._run.wait_for(lambda: self.standby.serial >= serial, f"{self.name} reaches {serial}", 90)
        self.kill(politely=True)
        if self.standby.faults():
            run_apart("faults", "retry", *self.standby.own)
            run_apart("catchup", *self.standby.with_secret)
        assert self.standby.faults() == {}, f"{self.name}: {self.standby.faults()}"
        self.check(again=True)
        assert self.reached == serial, f"{self.name} is at {self.reached}, the primary at {serial}"
        self._judge.check_nothing_more(self.standby)
        left = list((self.standby.serverdir / ".replisync" / "tmp").iterdir())
        assert not left, f"{self.name}: {left} is left over"


class Cloner(Keeper):
    """Clones that are killed some times, end, and are caught up; then the next one, with the other storage.

    make: returns where the next one is to be made.
    source: the primary's serverdir, from which some are made.
    """

    def __init__(
        self,
        make: Callable[[], Standby],
        source: Path,
        judge: Judge,
        chaos: Chaos,
        random: Random,
        record: Record,
    ) -> None:
        super().__init__("clone", make(), judge, chaos, random, record)
        self._make, self._source = make, source
        self.done = 0
        self._plan()

    @property
    def _complete(self) -> bool:
        return (self.standby.serverdir / ".nodeinfo").exists()

    def tick(self) -> None:
        """Start the clone anew, or kill it, or judge it when it is done."""
        if not self.running:
            life = self._random.uniform(0.5, 4) if self._kills_left > 0 else MOST_SECONDS
            if self._complete:
                self.begin("catchup", *self.standby.with_secret, *IMPATIENT, life=life)
            else:
                self.begin("clone", *self.standby.new, *self._options, *IMPATIENT, life=life)
            return
        code = self.ended()
        if code is None and time.monotonic() > self._due:
            self.kill()
            self._kills_left -= not self.running
        if not self.running:
            self._judge_it()
            if code == 0 and self._command == "catchup":
                self._next()

    def _judge_it(self) -> None:
        """Judge what is there of it."""
        self._chaos.be_readable()
        if self._complete or self._has_entries():
            self.check(whole=self._complete)

    def _has_entries(self) -> bool:
        if isinstance(self.standby, PostgresStandby):
            return bool(self.standby.database.scalar("SELECT to_regclass('changelog') IS NOT NULL"))
        return self.standby.serial >= 0

    def _plan(self) -> None:
        self._kills_left = self._random.randint(2, 6)
        self._options = ("--from-serverdir", self._source) if self._random.random() < 0.3 else ()
        self._checked = self.reached = -1

    def _next(self) -> None:
        self.done += 1
        shutil.rmtree(self.standby.serverdir)
        if isinstance(self.standby, PostgresStandby):
            self.standby.database.drop()
        self.standby = self._make()
        self._plan()


def _peak(pid: int) -> int:
    """Return the most memory that a process has had, in KiB; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            found = [line.split()[1] for line in status if line.startswith("VmHWM")]
    except OSError:
        return 0
    return int(found[0]) if found else 0
