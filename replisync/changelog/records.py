"""The store's records about itself, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from replisync.changelog.plan import Batch

# States of a file in the ledger; see tables.files.
WANTED = "wanted"
PRESENT = "present"
ABSENT = "absent"

# Kinds of faults: the serial waits for the file; its mirror lacks it; it can never be fetched, or have a path
# here; the operator gave it up.
HELD = "held"
MIRROR = "mirror"
UNFETCHABLE = "unfetchable"
SKIPPED = "skipped"

# The reason of a wanted file that is not a fault: its index is skipped, or a later run fetches it.
UNASKED = "it was not asked for"

# A row of the ledger of files: relpath, serial, digest, state, size, reason.
FileRow = tuple[str, int, str, str, int | None, str | None]

# A note on a file whose serial is not committed; see tables.pending.
ARRIVE = "arrive"

# Levels of verification; each includes the lower ones.
LEVELS = ("quick", "files", "full", "primary")

# Kinds of seeds whose entries are rewritten, with serials moved to those of the primary.
_REBASED = frozenset({"export"})


@dataclass(frozen=True, slots=True)
class Lineage:
    """A primary of the history: its UUID, its first serial, and the time when we began to follow it."""

    uuid: str
    from_serial: int
    since: str


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a target's data, and how it was seeded.

    storage: in devpi-server's format, without the password.
    uuid: the UUID that we give the target.
    seed_serial: the primary's serial when the metadata was complete; None before that.
    promoted: the time of promotion, or None.
    seed_reason: why it was not seeded from the changelog, in one clause; None if it was.
    """

    primary_url: str
    primary_uuid: str
    uuid: str
    storage: str
    seed_kind: str
    seed_started: str
    seed_serial: int | None = None
    seed_finished: str | None = None
    promoted: str | None = None
    seed_reason: str | None = None

    @property
    def is_server(self) -> bool:
        """Whether it was promoted or created as a standalone server, to which only devpi-server writes."""
        return self.promoted is not None or not self.primary_url

    @property
    def based_on(self) -> int:
        """The last serial whose entry is not the primary's own; -1 if all are."""
        return -1 if self.seed_kind not in _REBASED or self.seed_serial is None else self.seed_serial


@dataclass(frozen=True, slots=True)
class Identity:
    """A target's identity: its UUID, its primary's UUID, and its seed; see tables.source."""

    uuid: str
    primary_uuid: str
    primary_url: str
    seed_kind: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """A divergence that was found.

    serial: ours, at that time.
    fork_serial: the last serial up to which both agree; None if unknown, or none.
    """

    found_at: str
    serial: int
    fork_serial: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Contact:
    """The last contact with the primary, its serial then, and the time when ours last equalled it."""

    contacted_at: str
    primary_serial: int
    in_sync_at: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that could not be fetched.

    kind: held (the serial waits for it), mirror (its upstream no longer has it), unfetchable (it can never be
        fetched or stored), skipped (by the operator).
    """

    relpath: str
    serial: int
    kind: str
    reason: str
    tries: int = 1
    next_try: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command that writes.

    files, bytes: downloaded.
    local: files that were taken from this machine instead.
    """

    command: str
    started: str
    outcome: str
    finished: str | None = None
    from_serial: int | None = None
    to_serial: int | None = None
    files: int = 0
    bytes: int = 0
    local: int = 0
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification.

    outcome: ok, repaired, failed.
    serial: the last serial that was verified.
    findings: the number that remain.
    found: the findings, in the format of verify.standing; None if not recorded.
    """

    level: str
    outcome: str
    serial: int
    started: str
    finished: str
    findings: int
    repaired: int
    found: str | None = None


@dataclass(frozen=True, slots=True)
class FileCounts:
    """The numbers of files that live keys demand, that are missing, and of missing ones that are expected."""

    total: int
    missing: int
    absent: int


@dataclass(slots=True)
class Commit:
    """The changes of one transaction.

    batch: the entries.
    present: sizes in bytes of the files that are durably in place, by relpath.
    staged: files whose new content is in the staging folder, because an old one is in place: name by relpath.
        They are in `present` too.
    leaving: files that are in place and must go: dropped ones, and those whose new content could not be
        fetched.
    absent: expectedly missing files: reason by relpath.
    faults: files that could not be fetched and do not hold the serial back.
    Wanted files of the batch in none of these stay wanted.
    """

    batch: Batch
    present: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, str] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    absent: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A move on disk that a committed serial demands, or a file placed before it; see tables.pending."""

    relpath: str
    serial: int
    action: str
    staged: str | None


@dataclass(frozen=True, slots=True)
class Retained:
    """A file in the retained folder; see tables.retained."""

    stored_as: str
    relpath: str
    serial: int
    retained_at: str
    overdue_at: str | None
