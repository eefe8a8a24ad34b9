"""First copies from what is on this machine, beside devpi's own export and import of the same data."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.benchmarks.copies import check, clone_command
from tests.benchmarks.dataset import checkout
from tests.benchmarks.machine import Finished, run_measured
from tests.benchmarks.stage import Stage


@dataclass(frozen=True)
class Exported:
    """A seed by way of an export: all of it, and how long devpi's own tools took in it."""

    whole: Finished
    tools_seconds: float


def base_copy(stage: Stage, *options: str) -> Finished:
    """Make a standby from the serverdir of the running primary."""
    return _clone(stage, "--from-serverdir", stage.primary.serverdir, *options)


def from_local_files(stage: Stage) -> Finished:
    """Make a standby over HTTP, with all files in a folder on this machine."""
    return _clone(stage, "--replica-file-search-path", stage.primary.serverdir)


def export_seed(stage: Stage) -> Exported:
    """Make a standby by way of an export that replisync makes."""
    finished = _clone(stage, "--from-serverdir", stage.primary.serverdir, "--seed", "export")
    moments: dict[str, datetime] = {}
    for line in finished.output.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            moments.setdefault(entry["event"], datetime.fromisoformat(entry["timestamp"]))
    # Before each of them everything of ours is done; behind the import comes the metadata.
    return Exported(finished, (moments["metadata"] - moments["export"]).total_seconds())


def devpis_own(stage: Stage) -> list[Finished]:
    """Export a copy of the primary's serverdir with devpi-export, and import that with devpi-import."""
    folder = stage.new_replica()
    source = checkout(stage.dataset, folder / "source")
    finished = [
        _tool("devpi-export", "--serverdir", source, folder / "dump"),
        _tool(
            *("devpi-import", "--serverdir", folder / "imported"),
            *("--no-root-pypi", "--no-events", folder / "dump"),
        ),
    ]
    shutil.rmtree(folder / "dump")
    return finished


def _clone(stage: Stage, *options: object) -> Finished:
    serverdir = stage.new_standby()
    finished = run_measured([*clone_command(stage, serverdir, files=True), *map(str, options)])
    check(stage, serverdir, files=True)
    return finished


def _tool(name: str, *words: object) -> Finished:
    return run_measured([str(Path(sys.executable).with_name(name)), *map(str, words)])


def seconds(finished: Sequence[Finished]) -> float:
    """Return how long several processes took one after the other."""
    return sum(one.seconds for one in finished)


def cpu_seconds(finished: Sequence[Finished]) -> float:
    """Return how much CPU several processes took, and what they ran."""
    return sum(one.cpu_seconds for one in finished)
