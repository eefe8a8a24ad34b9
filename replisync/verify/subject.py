"""What is verified: one target, what is known of it when the verification begins, and who watches."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from replisync.changelog.records import Source
from replisync.devpi.storage import POSTGRES
from replisync.replication.context import Context
from replisync.standby.database.store import Store
from replisync.standby.files.survey import Survey
from replisync.standby.serverdir import Serverdir
from replisync.verify.findings import Findings, Note
from replisync.verify.owner import Owner


@dataclass(slots=True)
class Subject:
    """One target that is looked through.

    alone: whether we hold its lock, so that nobody changes it meanwhile.
    cores: how many files are looked at at a time.
    keep: writes down the witnesses of entries that were compared with the primary's just now.
    owner: who must be able to use the files on disk.
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
        """Take the time of a part of the work."""
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 3)

    def storage_is_database(self) -> bool:
        """Return whether files are rows, and none lies on disk."""
        return self.serverdir.storage().name == POSTGRES

    def in_use(self) -> bool:
        """Return whether another replisync writes to the target now."""
        return not self.alone and self.serverdir.locked_by() is not None
