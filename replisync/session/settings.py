"""The operator's settings for a run."""

from dataclasses import dataclass, field
from pathlib import Path

from replisync.changelog.plan import BatchLimits
from replisync.primary.access import Access

# The time limit for merely asking the primary for its state: monitoring, and a failover, cannot wait.
ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings for every command that reads from a primary.

    access: how to reach the primary.
    skip_indexes: indexes (`user/index`), types of indexes, or "all", whose files are skipped.
    retention_days: how long dropped files are retained; 0 retains none.
    expire_at_once: remove files retained for longer when they are first found, not a day later.
    patience: seconds to retry transient errors without progress; None for ever.
    search: folders to search for files before downloading them; see standby.files.local.
    hard_links: whether to link files that are found there instead of copying them.
    linked: more such folders, `+files` of ours, which are searched first and always linked.
    """

    access: Access = field(default_factory=Access)
    skip_indexes: frozenset[str] = frozenset()
    retention_days: float = 30.0
    expire_at_once: bool = False
    patience: float | None = 60.0
    limits: BatchLimits = field(default_factory=BatchLimits)
    search: tuple[Path, ...] = ()
    hard_links: bool = False
    linked: tuple[Path, ...] = ()
