"""Findings of a verification: suspicions that still hold at a second check.

A standby is followed while it is verified, and each check has a snapshot of its own, so that two of them may
not match although nothing is wrong. So every suspicion is checked again, alone and in its present state, and
reported only if it still holds.
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
ROW = "row"  # of a table, with an invalid value
SOURCE = "source"  # the recorded source of the standby
DATABASE = "database"  # its own structure
TEMPORARY = "temporary-file"
MISSING_ENTRY = "missing-entry"
DAMAGED_ENTRY = "damaged-entry"
OTHER_ENTRY = "other-entry"  # not the primary's, or not the one that was committed
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

# The number that is listed; all are counted.
LISTED = 5000

# The number of suspicions that wait for their second check.
_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One error.

    subject: a path, a key, a serial.
    serial: that it belongs to, or None.
    remedy: what helps if `--repair` does not.
    """

    kind: str
    subject: str
    serial: int | None
    expected: str
    found: str
    remedy: str | Hint = ""

    @property
    def identity(self) -> tuple[str, str, int | None]:
        """The identity of a finding; equal for two findings of the same error."""
        return self.kind, self.subject, self.serial


@dataclass(frozen=True, slots=True)
class Note:
    """A remark that is not damage: it may be intended.

    subject, serial: as of a finding.
    """

    kind: str
    subject: str
    serial: int | None
    note: str


def _shown(one: Finding, *, repaired: bool) -> dict[str, Any]:
    return {**asdict(one), "remedy": str(one.remedy), "repaired": repaired}


# Checks again; returns the error now, or None.
Look = Callable[[], Finding | None]

# A check; yields suspicions.
Check = Callable[[], Iterable[Finding]]


class Findings:
    """Collects suspicions, and turns them into findings.

    pause: waits for a moment, so that work in progress can end; called before suspicions are checked again.
    """

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        self._waiting: dict[tuple[str, str, int | None], Look] = {}
        self._checks: list[tuple[Check, set[tuple[str, str, int | None]]]] = []
        self._listed: dict[tuple[str, str, int | None], Finding] = {}
        self._seen = 0
        self.counts: Counter[str] = Counter()

    def consider(self, check: Check) -> None:
        """Run a check, and once more later; report what it finds both times.

        For checks with a limited number of results.
        """
        found = {finding.identity for finding in check()}
        if found:
            self._checks.append((check, found))

    def suspect(self, finding: Finding, look: Look) -> None:
        """Add a suspicion, which is checked again alone."""
        if finding.identity in self._listed:
            return
        self._waiting[finding.identity] = look
        if len(self._waiting) >= _WAITING:
            self.settle()

    def settle(self) -> None:
        """Check all suspicions again."""
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
        """The findings, up to the limit."""
        return list(self._listed.values())

    @property
    def total(self) -> int:
        """The number of findings."""
        return self.counts.total()


@dataclass(slots=True)
class Report:
    """The result of a verification.

    serial: the last serial that was verified.
    outcome: ok, repaired, failed.
    stages: seconds of each part of the work.
    counts: the number of findings of each kind.
    checked: the number of items that were checked, by type.
    known: expectedly missing files, by reason: absent, faults, skipped.
    findings: the listed ones, with those that were repaired.
    repairs: the repaired ones of them.
    total: the number that remain, including unlisted ones.
    repaired: the number that were repaired.
    notes: remarks that are not findings.
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
    repairs: list[Finding] = field(default_factory=list)
    total: int = 0
    repaired: int = 0
    notes: list[Note] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return the output of `verify --json`."""
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
                *(_shown(one, repaired=True) for one in self.repairs),
            ],
            "notes": [asdict(one) for one in self.notes],
        }
