"""The context of a run: log, progress, and stop flag."""

from dataclasses import dataclass

from replisync.changelog.ports import Log, Progress
from replisync.system.stop import Stop


@dataclass(frozen=True, slots=True)
class Context:
    """Takes the log and the progress of a run, and tells it to stop."""

    stop: Stop
    log: Log
    progress: Progress
