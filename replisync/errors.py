"""Every error that replisync raises on purpose.

    ReplisyncError
    ├── UsageError              2  the command line or the configuration is wrong
    ├── PrimaryUnreachable      3  no answer, or an answer that promises to pass  (transient)
    │   ├── PrimaryTimeout      3  the primary was silent for too long            (transient)
    │   ├── NotThePrimary       3  another server answers in the primary's place  (transient)
    │   └── BrokenStream        3  an answer that ended before its end            (transient)
    │       └── WrongContent    3  a file that is not the one that was promised   (transient)
    ├── PrimaryRefused          4  secret, clock, role or route: an operator must act
    │   └── NewerPrimary        4  a generation of devpi-server whose changelog we do not read
    ├── PrimaryDamaged          5  what the primary stores cannot be used
    │   └── CorruptEntry        5  bytes that are no changelog entry
    ├── WrongHistory            5  another server, a rewound or a rewritten primary
    ├── TargetUnusable          6  locked, promoted, incomplete, foreign data, unknown version
    │   ├── TargetLocked        6  another process writes to this target
    │   ├── UnreadableText      6  text in the target's database that is none
    │   └── ForeignWriter       6  someone else wrote while we did
    ├── LocalFailure            7  disk, permissions, database                    (transient: see class)
    │   └── NotPermitted        7  an owner, a mode or a read-only file system    (transient)
    ├── FilesMissing            3  files that the primary did not deliver         (transient)
    ├── VerificationFailed      8  problems that remain
    └── ConditionFailed         9  lag, loss on promote, or a timeout that was asked for
        └── Stopped           143  a signal asked us to end before the work was done

The numbers are the exit codes of the command line; a test compares them with docs/exit-codes.md.
This module imports nothing, so that every other module may import it.
"""

from typing import ClassVar


class ReplisyncError(Exception):
    """Say what was attempted, on what, at which serial, why it failed, and what the operator can do.

    attempted: what could not be done, to what, as in "cannot fetch root/dev/+f/…/pkg-1.0.whl".
    why: the cause in one clause; never a secret, never a URL with credentials.
    serial: the serial that the operation was about, where there is one.
    hint: what the operator can do now.
    """

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False
    default_hint: ClassVar[str] = "this is a bug of replisync: please report it with the log"

    def __init__(self, attempted: str, why: str, *, serial: int | None = None, hint: str = "") -> None:
        self.attempted = attempted
        self.why = why
        self.serial = serial
        self.hint = hint or self.default_hint
        # More fields for those who asked for JSON.
        self.details: dict[str, object] = {}
        super().__init__(attempted, why)

    def __str__(self) -> str:
        at = "" if self.serial is None else f" at serial {self.serial}"
        why = self.why.rstrip(".")  # others' words may end with one
        return f"{self.attempted}{at}: {why}. {self.hint[:1].upper()}{self.hint[1:]}."

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the keyword arguments in place."""
        state = {"details": self.details}
        return _rebuild, (type(self), self.attempted, self.why, self.serial, self.hint), state


def _rebuild(cls: type[ReplisyncError], attempted: str, why: str, serial: int | None, hint: str) -> object:
    return cls(attempted, why, serial=serial, hint=hint)


class UsageError(ReplisyncError):
    """The command line or the configuration is wrong."""

    exit_code = 2
    default_hint = "see `replisync COMMAND --help`"


class PrimaryUnreachable(ReplisyncError):
    """The primary gave no answer, or one that says that it may answer later."""

    exit_code = 3
    transient = True
    default_hint = "check that the primary runs and can be reached, then run the command again"


class PrimaryTimeout(PrimaryUnreachable):
    """The primary was silent for longer than its protocol allows."""


class NotThePrimary(PrimaryUnreachable):
    """A server answers in the primary's place: a replica of it, our own standby, or no devpi-server.

    details: of a devpi-server, `answered_by`, its UUID, and `answered_serial`: the primary has reached that.
    """

    default_hint = "check that the primary runs, and that --primary-url leads to it alone"


class BrokenStream(PrimaryUnreachable):
    """An answer ended, or broke, before its end; nothing of its last entry was used."""

    default_hint = "run the command again: it resumes"


class WrongContent(BrokenStream):
    """A file arrived that is not the one which the changelog promised."""

    default_hint = "it is fetched again; if that goes on, run devpi-fsck on the primary"


class PrimaryRefused(ReplisyncError):
    """The primary understood us and said no."""

    exit_code = 4
    default_hint = "check secret, clock and role of the primary"


class NewerPrimary(PrimaryRefused):
    """The primary runs a devpi-server whose changelog we do not read; its serials are others, too."""

    default_hint = (
        "nothing was written; use a replisync that reads the changelog of this server, or follow a primary "
        "that runs devpi-server 6"
    )


class PrimaryDamaged(ReplisyncError):
    """What the primary stores, or sends, cannot be used as history."""

    exit_code = 5
    default_hint = "run devpi-fsck on the primary; the standby stays at its last good serial"


class CorruptEntry(PrimaryDamaged):
    """Bytes that are no changelog entry, or one beyond our limits."""


class WrongHistory(ReplisyncError):
    """The primary's history is not the one that this target follows."""

    exit_code = 5
    default_hint = "nothing was written; check the primary, then clone into an empty serverdir"


class TargetUnusable(ReplisyncError):
    """The target cannot be written by us in the state that it is in."""

    exit_code = 6
    default_hint = "choose another --serverdir"


class TargetLocked(TargetUnusable):
    """Another process holds the writer's lock of this target."""

    default_hint = "wait for the other replisync to end, or stop it"


class UnreadableText(TargetUnusable):
    """The target's database has text that is none, which nobody can read."""

    default_hint = "`replisync verify --repair` finds and repairs it"


class ForeignWriter(TargetUnusable):
    """Someone else moved the target on while we held our lock."""

    default_hint = "find out which devpi-server wrote to the standby; it can no longer follow the primary"


class LocalFailure(ReplisyncError):
    """The disk, a permission or the database of the target failed us."""

    exit_code = 7
    transient = True
    default_hint = "repair it and run the command again: it resumes"


class NotPermitted(LocalFailure):
    """The owner or the mode of a file or folder, or a read-only file system, keeps us from it."""


class FilesMissing(ReplisyncError):
    """Files that this serial needs could not be had from the primary."""

    exit_code = 3
    transient = True
    default_hint = "the serial waits for them; see `replisync faults list`, then run the command again"


class VerificationFailed(ReplisyncError):
    """A verification found problems that remain."""

    exit_code = 8
    default_hint = "see the findings"


class ConditionFailed(ReplisyncError):
    """A condition that was asked for does not hold."""

    exit_code = 9
    default_hint = "nothing was changed"


class Stopped(ConditionFailed):
    """A signal asked us to end before the work was done; what was done so far is complete.

    The code is what a shell shows for a process that SIGTERM ended; `follow`, which has no other end, makes
    a success of it.
    """

    exit_code = 143
    default_hint = "run the command again: it resumes"
