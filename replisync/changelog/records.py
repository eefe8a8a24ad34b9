"""What the store says about itself, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from replisync.changelog.plan import Batch

# States of a file in the ledger; see tables.files.
WANTED = "wanted"
PRESENT = "present"
ABSENT = "absent"

# The kind of a fault of what can never be fetched, or have a path here.
UNFETCHABLE = "unfetchable"

# Why a file is wanted that is no fault: its index is left out, or it was left to a later run.
UNASKED = "it was not asked for"

# A row of the ledger of files: relpath, serial, digest, state, size, reason.
FileRow = tuple[str, int, str, str, int | None, str | None]

# A note on a file whose serial is not committed; see tables.pending.
ARRIVE = "arrive"

# Levels of verifications; each looks at what those before it do, too.
LEVELS = ("quick", "files", "full", "primary")

# Kinds of seeds whose entries are made anew, with serials moved to where the primary's were.
_REBASED = frozenset({"export"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a target's data comes from and how it began.

    storage: devpi-server's own spelling of the storage, without its password.
    uuid: the UUID that we give the target.
    seed_serial: the primary's serial when the seeding's metadata was complete; None before.
    promoted: when the target was promoted; None where it was not.
    seed_reason: why the seed took another way than the changelog, in one clause; None for that one.
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
        """Whether it became, or was made, a server of its own, which nobody writes to but devpi-server."""
        return self.promoted is not None or not self.primary_url

    @property
    def based_on(self) -> int:
        """The last serial whose entry is not the primary's own; -1 where all of them are."""
        return -1 if self.seed_kind not in _REBASED or self.seed_serial is None else self.seed_serial


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a target is: its own UUID, and that of its primary; and how it began, see tables.source."""

    uuid: str
    primary_uuid: str
    primary_url: str
    seed_kind: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """That the primary's history was found not to be ours.

    serial: ours, when it was found.
    fork_serial: up to which both agree; None where that is not known, or nowhere.
    """

    found_at: str
    serial: int
    fork_serial: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Contact:
    """When the primary was last heard of, its serial then, and when ours last equalled it."""

    contacted_at: str
    primary_serial: int
    in_sync_at: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that could not be had.

    kind: held (the serial waits for it), mirror (its upstream has it no more), unfetchable (nobody can
        fetch or hold it), skipped (the operator said so).
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

    files, bytes: what was downloaded.
    local: files that were found on this machine instead.
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
    """What a verification found.

    outcome: ok, repaired, failed.
    serial: up to which the history was verified.
    findings: how many remain.
    found: which, as verify.standing writes it; None where that was not noted.
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
    """How many files the live keys demand, how many are not here, and how many of those are in order."""

    total: int
    missing: int
    absent: int


@dataclass(slots=True)
class Commit:
    """What one transaction makes true.

    batch: the entries.
    present: sizes in bytes of the files that are durably in place, by relpath.
    staged: files whose new content lies in the staging folder, because an old one is in place: name by
        relpath. They are `present` too.
    leaving: files that are in place and must not stay: dropped ones, and those whose new content could
        not be had.
    absent: files that nobody can have, in order: reason by relpath.
    faults: files that could not be had and do not hold the serial back.
    Wanted files of the batch that are in none of these stay wanted.
    """

    batch: Batch
    present: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, str] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    absent: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A move on disk that a committed serial demands, or a file that came before it; see tables.pending."""

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
