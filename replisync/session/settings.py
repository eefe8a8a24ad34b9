"""What an operator may set for a run."""

from dataclasses import dataclass, field
from pathlib import Path

from replisync.changelog.plan import BatchLimits
from replisync.primary.access import Access

# For so long a primary is waited for that is only asked where it is: monitoring, and a failover, cannot wait.
ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set for any command that reads from a primary.

    access: how the primary is reached.
    skip_indexes: indexes (`user/index`), or types of them, or "all", whose files are left where they are.
    retention_days: how long files that deltas drop are kept; 0 keeps none.
    expire_at_once: remove files that are kept for longer when they are first found, not a day later.
    patience: seconds for which failures that may pass are borne; None for ever.
    search: folders in which files are looked for before they are asked for; see seed.local.
    hard_links: whether files that are found there are linked rather than copied.
    linked: more of the like, `+files` of ours, in which is looked first and from which files are linked.
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
