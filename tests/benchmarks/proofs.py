"""A standby that is verified, and what else reads all of its files."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass

from tests.benchmarks.machine import run_measured
from tests.benchmarks.stage import Stage

# Of the report of a full verification: what reads files, and looks for others.
_FILE_STAGES = ("files", "files in place")


@dataclass(frozen=True)
class Full:
    """A full verification: of the whole process, and of the stages that are about files."""

    seconds: float
    files_seconds: float
    peak_bytes: int


def copy(stage: Stage) -> None:
    """Make a standby of the primary, quickly: its files are links."""
    source = ("--from-serverdir", stage.primary.serverdir, "--primary-url", stage.primary.url)
    secret = ("--replica-keyfile", stage.keyfile)
    run_measured(stage.command("clone", "--serverdir", stage.new_standby(), *source, *secret, "--hard-links"))


def files(stage: Stage) -> float:
    """Return the seconds of a verification of all files' sizes."""
    return run_measured(stage.command("verify", "--serverdir", stage.standby, "--level", "files")).seconds


def full(stage: Stage) -> Full:
    """Verify everything."""
    done = run_measured(stage.command("verify", "--serverdir", stage.standby, "--level", "full", "--json"))
    report = json.loads(done.output[done.output.index("\n{\n") if not done.output.startswith("{\n") else 0 :])
    if report["checked"]["files"] != stage.dataset.files:
        raise RuntimeError(f"it looked at {report['checked']['files']} files")
    return Full(done.seconds, sum(report["stages"][name] for name in _FILE_STAGES), done.peak_bytes)


def find(stage: Stage) -> float:
    """Return the seconds in which find tells the size of every file."""
    return _seconds(f"find '{stage.standby}/+files' -type f -printf '%s\\n'")


def sha256sum(stage: Stage) -> float:
    """Return the seconds in which sha256sum reads every file, on all cores."""
    cores = len(os.sched_getaffinity(0))
    return _seconds(f"find '{stage.standby}/+files' -type f -print0 | xargs -0 -P{cores} -n 1000 sha256sum")


def _seconds(command: str) -> float:
    begin = time.monotonic()
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin
