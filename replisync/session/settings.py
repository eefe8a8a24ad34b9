"""What an operator may set for a run, and who watches it."""

from dataclasses import dataclass, field
from pathlib import Path

from replisync.changelog.plan import BatchLimits
from replisync.changelog.ports import Log, Progress
from replisync.devpi.tokens import KeyCost
from replisync.devpi.wire import Limits
from replisync.primary.tls import Tls
from replisync.system.stop import Stop

# For so long a primary is waited for that is only asked where it is: monitoring, and a failover, cannot wait.
ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set for any command that reads from a primary.

    threads: downloads at a time.
    skip_indexes: indexes (`user/index`), or types of them, or "all", whose files are left where they are.
    retention_days: how long files that deltas drop are kept; 0 keeps none.
    patience: seconds for which failures that may pass are borne; None for ever.
    silence: seconds without a byte after which the primary is given up.
    entry_bytes: the longest entry of the primary's changelog that is taken.
    search: folders in which files are looked for before they are asked for; see seed.local.
    hard_links: whether files that are found there are linked rather than copied.
    linked: more of the like, `+files` of ours, in which is looked first and from which files are linked.
    """

    secretfile: Path | None = None
    keyfile: Path | None = None
    cost: KeyCost = field(default_factory=KeyCost)
    threads: int = 4
    skip_indexes: frozenset[str] = frozenset()
    retention_days: float = 30.0
    patience: float | None = 60.0
    silence: float = 37.5
    limits: BatchLimits = field(default_factory=BatchLimits)
    tls: Tls = field(default_factory=Tls)
    entry_bytes: int = Limits().entry_bytes
    search: tuple[Path, ...] = ()
    hard_links: bool = False
    linked: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Who watches a run: where it logs, shows its progress, and is told to stop."""

    stop: Stop
    log: Log
    progress: Progress
