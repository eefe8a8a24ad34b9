"""What a verification finds: suspicions while it looks, findings where they still hold on a second look.

A standby is followed while it is looked through, and each look is a moment of its own. So two looks may not
fit together, although nothing is wrong. Whatever looks wrong is therefore looked at once more, by itself and
in its present state, and is reported only where it is wrong still.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from replisync.errors import Hint

# Kinds of findings. A test compares them with docs/verify.md.
POSITION = "position"  # changelog and timeline end at different serials
IDENTITY = "identity"  # .nodeinfo
STATE_VERSION = "state-version"  # .serverversion
EVENT_SERIAL = "event-serial"
PERMISSIONS = "permissions"
SCHEMA = "schema"
SEQUENCE = "sequence"
ROW = "row"  # of a table, that holds what cannot be in it
SOURCE = "source"  # what the database remembers of where it comes from
DATABASE = "database"  # its own structure
TEMPORARY = "temporary-file"
MISSING_ENTRY = "missing-entry"
DAMAGED_ENTRY = "damaged-entry"
OTHER_ENTRY = "other-entry"  # than the primary's, or than the one that was committed
BACK_SERIAL = "back-serial"
KEY = "key"
LEDGER = "ledger"
PENDING_MOVE = "pending-move"
MISSING_FILE = "missing-file"
FILE_SIZE = "file-size"
FILE_DIGEST = "file-digest"
SUPERFLUOUS_FILE = "superfluous-file"
PASSWORD = "password"  # noqa: S105 - of a user, that is not the primary's

KINDS = (
    POSITION,
    IDENTITY,
    STATE_VERSION,
    EVENT_SERIAL,
    PERMISSIONS,
    SCHEMA,
    SEQUENCE,
    ROW,
    SOURCE,
    DATABASE,
    TEMPORARY,
    MISSING_ENTRY,
    DAMAGED_ENTRY,
    OTHER_ENTRY,
    BACK_SERIAL,
    KEY,
    LEDGER,
    PENDING_MOVE,
    MISSING_FILE,
    FILE_SIZE,
    FILE_DIGEST,
    SUPERFLUOUS_FILE,
    PASSWORD,
)

# Kinds of notes.
EMPTY_PASSWORD = "empty-password"  # noqa: S105
UNTRIED_PASSWORDS = "untried-passwords"

# Those that are listed one by one; all are counted.
LISTED = 5000

# Suspicions that wait for their second look.
_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    subject: what it is about: a path, a key, a serial.
    serial: that it belongs to; None if it belongs to none.
    remedy: what helps where `--repair` does not.
    """

    kind: str
    subject: str
    serial: int | None
    expected: str
    found: str
    remedy: str | Hint = ""

    @property
    def identity(self) -> tuple[str, str, int | None]:
        """What makes two findings the same."""
        return self.kind, self.subject, self.serial


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know that is not damage: it may be meant.

    subject, serial: as of a finding.
    """

    kind: str
    subject: str
    serial: int | None
    note: str


def _shown(one: Finding, *, repaired: bool) -> dict[str, Any]:
    return {**asdict(one), "remedy": str(one.remedy), "repaired": repaired}


# Looks once more, and returns what is wrong now; None if nothing is.
Look = Callable[[], Finding | None]

# Looks at something as a whole, and yields what looks wrong.
Check = Callable[[], Iterable[Finding]]


class Findings:
    """Collects suspicions, and turns them into findings.

    pause: waits for a moment, in which what is going on can end; called before suspicions are looked at.
    """

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        self._waiting: dict[tuple[str, str, int | None], Look] = {}
        self._checks: list[tuple[Check, set[tuple[str, str, int | None]]]] = []
        self._listed: dict[tuple[str, str, int | None], Finding] = {}
        self._seen = 0
        self.counts: Counter[str] = Counter()

    def consider(self, check: Check) -> None:
        """Run a check, and once more later; what it finds both times is reported.

        It is for what finds a bounded number of things.
        """
        found = {finding.identity for finding in check()}
        if found:
            self._checks.append((check, found))

    def suspect(self, finding: Finding, look: Look) -> None:
        """Note that something looks wrong, which is looked at by itself once more."""
        if finding.identity in self._listed:
            return
        self._waiting[finding.identity] = look
        if len(self._waiting) >= _WAITING:
            self.settle()

    def settle(self) -> None:
        """Look at everything that looked wrong once more."""
        if not self._waiting and not self._checks:
            return
        waiting, self._waiting = self._waiting, {}
        checks, self._checks = self._checks, []
        self._pause()
        for check, found in checks:
            for finding in check():
                if finding.identity in found:
                    self._report(finding)
        for look in waiting.values():
            again = look()
            if again is not None:
                self._report(again)

    def _report(self, finding: Finding) -> None:
        if finding.identity in self._listed:
            return
        self.counts[finding.kind] += 1
        if len(self._listed) < LISTED:
            self._listed[finding.identity] = finding

    @property
    def listed(self) -> list[Finding]:
        """The findings, but for those beyond the bound."""
        return list(self._listed.values())

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()


@dataclass(slots=True)
class Report:
    """What a verification ended with.

    serial: up to which the history was verified.
    outcome: ok, repaired, failed.
    stages: seconds of each part of the work.
    counts: how many findings of each kind there are.
    checked: how many of each were looked at.
    known: what is not here and accounted for: files that nobody can have, faults, files left out.
    findings: those that are listed, with those that a repair mended.
    mended: which of them.
    total: all that remain, also beyond the list.
    repaired: all that were mended.
    notes: what is no finding.
    """

    level: str
    serial: int
    outcome: str
    started: str
    finished: str
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    mended: list[Finding] = field(default_factory=list)
    total: int = 0
    repaired: int = 0
    notes: list[Note] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return what `verify --json` prints."""
        return {
            "level": self.level,
            "serial": self.serial,
            "outcome": self.outcome,
            "started": self.started,
            "finished": self.finished,
            "seconds": self.seconds,
            "stages": self.stages,
            "checked": self.checked,
            "known": self.known,
            "findings_by_kind": self.counts,
            "findings_total": self.total,
            "repaired_total": self.repaired,
            "findings": [
                *(_shown(one, repaired=False) for one in self.findings),
                *(_shown(one, repaired=True) for one in self.mended),
            ],
            "notes": [asdict(one) for one in self.notes],
        }
