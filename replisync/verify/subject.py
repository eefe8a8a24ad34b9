"""The subject of a verification: one target, its state at the beginning, and the context."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from replisync.changelog import Source
from replisync.replication import Context
from replisync.standby import Serverdir, Store, Survey
from replisync.verify.findings import Findings, Note
from replisync.verify.owner import Owner


@dataclass(slots=True)
class Subject:
    """One target that is verified.

    alone: whether we hold its lock, so that no other process changes it meanwhile.
    cores: the number of files to check at a time.
    keep: records the witnesses of entries that were just compared with the primary's.
    owner: the user who must be able to use the files on disk.
    """

    serverdir: Serverdir
    store: Store
    source: Source
    survey: Survey
    findings: Findings
    context: Context
    alone: bool
    cores: int
    keep: Callable[[Mapping[int, bytes]], object]
    owner: Owner | None = None
    checked: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    stages: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of a part of the work."""
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 3)

    def in_use(self) -> bool:
        """Return whether another replisync writes to the target now."""
        return not self.alone and self.serverdir.locked_by() is not None
