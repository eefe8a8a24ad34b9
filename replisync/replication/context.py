"""Who watches a run."""

from dataclasses import dataclass

from replisync.changelog.ports import Log, Progress
from replisync.system.stop import Stop


@dataclass(frozen=True, slots=True)
class Context:
    """Where a run logs, shows its progress, and is told to stop."""

    stop: Stop
    log: Log
    progress: Progress
