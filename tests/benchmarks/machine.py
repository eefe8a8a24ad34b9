"""Measuring on a machine that others use too: alternating order, medians, foreign load, peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.4


CALM_CORES = 0.15


@dataclass(frozen=True)
class Sample:
    """One measured value, and how many cores others used meanwhile."""

    value: float
    foreign: float

    @property
    def calm(self) -> bool:
        """Whether others hardly disturbed it."""
        return self.foreign < CALM_CORES


@dataclass
class ForeignLoad:
    """How many cores others used while we measured.

    pids: of long-lived processes that belong to the measurement; what it starts and ends itself is counted.
    cores: of each measurement that counts.
    """

    pids: Iterable[int] = ()
    cores: list[float] = field(default_factory=list)

    def during(self, measure: Callable[[], float]) -> Sample:
        """Return what `measure` returns, with the foreign load meanwhile."""
        begin, ours, all_ = time.monotonic(), self._ours(), _busy_seconds()
        result = measure()
        seconds = time.monotonic() - begin
        foreign = (_busy_seconds() - all_) - (self._ours() - ours)
        return Sample(result, max(0.0, foreign / seconds))

    def _ours(self) -> float:
        return sum(os.times()[:4]) + sum(_process_seconds(pid) for pid in self.pids)


def _busy_seconds() -> float:
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = numbers
    return (user + nice + system + irq + softirq) / _TICKS


def _process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def alternate(
    competitors: Mapping[str, Callable[[], float]], repeat: int, load: ForeignLoad, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Measure each competitor `repeat` times; every second round goes backwards.

    Those that others disturbed are measured again, up to twice as often, and the calmest samples count.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in competitors}
    for number in range(2 * repeat):
        for name in list(competitors)[:: -1 if number % 2 else 1]:
            if sum(sample.calm for sample in samples[name]) >= repeat:
                continue
            os.sync()
            wait_for_calm()
            sample = load.during(competitors[name])
            samples[name].append(sample)
            say(
                f"{name}: {sample.value:.4g}"
                + ("" if sample.calm else f" ({sample.foreign:.2f} cores foreign)")
            )
    found = {name: sorted(each, key=lambda sample: sample.foreign)[:repeat] for name, each in samples.items()}
    load.cores += [sample.foreign for each in found.values() for sample in each]
    return {name: [sample.value for sample in each] for name, each in found.items()}


def wait_for_calm(patience_seconds: float = 20) -> None:
    """Return when others leave the machine alone, or when the patience is at its end."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        begin, busy = time.monotonic(), _busy_seconds()
        time.sleep(_LOOK_SECONDS)
        if (_busy_seconds() - busy) / (time.monotonic() - begin) < CALM_CORES:
            return


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


@dataclass(frozen=True)
class Finished:
    """A process that ended well: how long it ran, the most memory that it had, in bytes, and what it said.

    cpu_seconds: that it took, with the processes that it ran.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def run_measured(command: list[str]) -> Finished:
    """Run a command to its end; a failure is an error with its output.

    The peak is VmHWM, read while it runs: getrusage would give at least our own size for any child.
    """
    begin, cpu = time.monotonic(), _cpu_of_children()
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_bytes(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        seconds = time.monotonic() - begin
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()}")
        return Finished(seconds, _cpu_of_children() - cpu, peak, output.read())


def _cpu_of_children() -> float:
    """Return the CPU of all processes that we waited for."""
    return sum(os.times()[2:4])


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), default=0)
