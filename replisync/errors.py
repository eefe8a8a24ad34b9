"""The errors that replisync raises on purpose.

    ReplisyncError
    ├── UsageError              2  the command line or the configuration is wrong
    ├── PrimaryUnreachable      3  no answer, or an error that can be retried     (transient)
    │   ├── PrimaryTimeout      3  the primary was silent for too long            (transient)
    │   ├── NotThePrimary       3  another server answers at the primary's URL    (transient)
    │   └── BrokenStream        3  an answer that was cut off                     (transient)
    │       └── WrongContent    3  a file with another digest or size             (transient)
    ├── PrimaryRefused          4  secret, clock, role or route: an operator must act
    │   └── NewerPrimary        4  a generation of devpi-server that we do not support
    ├── PrimaryDamaged          5  data of the primary that cannot be used
    │   └── CorruptEntry        5  bytes that are not a changelog entry
    ├── WrongHistory            5  another server, a rewound or a rewritten primary
    ├── TargetUnusable          6  locked, promoted, incomplete, foreign data, unknown version
    │   ├── TargetLocked        6  another process writes to this target
    │   ├── UnreadableText      6  undecodable text in the target's database
    │   └── ForeignWriter       6  another process wrote while we did
    ├── LocalFailure            7  disk, permissions, database                    (transient: see class)
    │   └── NotPermitted        7  an owner, a mode or a read-only file system    (transient)
    ├── FilesMissing            3  files that the primary did not deliver         (transient)
    ├── VerificationFailed      8  problems that remain
    └── ConditionFailed         9  a requested limit is exceeded: lag, loss on promote, timeout
        └── Stopped           143  a signal ended the run before the work was done

The numbers are the exit codes of the command line; a test compares them with docs/exit-codes.md.
This module imports nothing of ours, so that every other module may import it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import ClassVar


class Advice:
    """A command of replisync that a hint names, such as `Advice("rewind", to_serial=4690)`.

    words: the command, such as "faults list".
    options: by their names with `_` for `-`: True for a flag, otherwise the value, quoted for a shell.
    """

    def __init__(self, words: str, **options: int | str) -> None:
        self.words = words
        self.options = options

    def __str__(self) -> str:
        return f"`{self.command}`"

    @property
    def command(self) -> str:
        """The command line, with the options that this run was given."""
        return telling.get()(self)

    def spelled(
        self, given: Mapping[str, int | str] | None = None, before: Mapping[str, str] | None = None
    ) -> str:
        """Return the command line.

        given: more options of the command.
        before: options of replisync itself.
        """
        options = {**self.options, **(given or {})}
        return " ".join(("replisync", *_written(before or {}), self.words, *_written(options)))


def _written(options: Mapping[str, int | str]) -> Iterator[str]:
    for name, value in options.items():
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield str(value)


# Writes a command; the command line sets one for its run, which adds the options that the run was given.
telling: ContextVar[Callable[[Advice], str]] = ContextVar("telling", default=Advice.spelled)


class Hint:
    """A hint that names commands, such as `Hint("run {}", Advice("catchup"))`; rendered when it is shown.

    text: as of str.format.
    parts: what belongs into the braces: commands, other hints, text.
    """

    def __init__(self, text: str, *parts: "Advice | Hint | str") -> None:
        self.text = text
        self.parts = parts

    def __str__(self) -> str:
        return self.text.format(*self.parts)

    def __contains__(self, text: str) -> bool:
        return text in str(self)


class ReplisyncError(Exception):
    """An error as `cannot <verb> <object>[ at serial N]: <cause>. <Hint>.`

    attempted: what could not be done, to what, as in "cannot fetch root/dev/+f/…/pkg-1.0.whl".
    why: the cause in one clause; never a secret, never a URL with credentials.
    serial: the serial concerned, if any.
    hint: what the operator can do now, imperative; a Hint if it names a command of ours.
    """

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False
    default_hint: ClassVar[str | Hint] = "report this bug of replisync, with the log"

    def __init__(self, attempted: str, why: str, *, serial: int | None = None, hint: str | Hint = "") -> None:
        self.attempted = attempted
        self.why = why
        self.serial = serial
        self.hint: str | Hint = hint or self.default_hint
        # More fields for the JSON output.
        self.details: dict[str, object] = {}
        super().__init__(attempted, why)

    def __str__(self) -> str:
        at = "" if self.serial is None else f" at serial {self.serial}"
        why = self.why.rstrip(".")  # a foreign message may end with one
        hint = str(self.hint)
        return f"{self.attempted}{at}: {why}. {hint[:1].upper()}{hint[1:]}."

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the keyword arguments in place."""
        state = {"details": self.details}
        return _rebuild, (type(self), self.attempted, self.why, self.serial, self.hint), state


def _rebuild(
    cls: type[ReplisyncError], attempted: str, why: str, serial: int | None, hint: str | Hint
) -> object:
    return cls(attempted, why, serial=serial, hint=hint)


class UsageError(ReplisyncError):
    """The command line or the configuration is wrong."""

    exit_code = 2
    default_hint = "see `replisync COMMAND --help`"


class PrimaryUnreachable(ReplisyncError):
    """The primary gave no answer, or an error that can be retried."""

    exit_code = 3
    transient = True
    default_hint = "check that the primary runs and is reachable, then run the command again"


class PrimaryTimeout(PrimaryUnreachable):
    """The primary was silent for longer than its protocol allows."""


class NotThePrimary(PrimaryUnreachable):
    """Another server answers at the primary's URL: a replica of it, our own standby, or no devpi-server.

    details: for a devpi-server, `answered_by` (its UUID) and `answered_serial`, which the primary reached.
    """

    default_hint = "check that the primary runs, and that --primary-url leads to it"


class BrokenStream(PrimaryUnreachable):
    """An answer was cut off or broken; its last entry was not used."""

    default_hint = "run the command again: it resumes"


class WrongContent(BrokenStream):
    """A received file has not the digest or size that the changelog names."""

    default_hint = "fetch it again; if the error persists, run devpi-fsck on the primary"


class PrimaryRefused(ReplisyncError):
    """The primary rejected our request."""

    exit_code = 4
    default_hint = "check the secret, the clock and the role of the primary"


class NewerPrimary(PrimaryRefused):
    """The primary runs a generation of devpi-server whose changelog and serials differ."""

    default_hint = (
        "nothing was written; use a replisync that supports this devpi-server, or follow a primary that runs "
        "devpi-server 6"
    )


class PrimaryDamaged(ReplisyncError):
    """Data of the primary cannot be used as history."""

    exit_code = 5
    default_hint = "run devpi-fsck on the primary; the standby stays at its last good serial"


class CorruptEntry(PrimaryDamaged):
    """Bytes that are not a changelog entry, or exceed our limits."""


class WrongHistory(ReplisyncError):
    """The primary's history is not the one that this target follows."""

    exit_code = 5
    default_hint = "nothing was written; check the primary, then clone into an empty serverdir"


class TargetUnusable(ReplisyncError):
    """The target is in a state in which we cannot write to it."""

    exit_code = 6
    default_hint: ClassVar[str | Hint] = "choose another --serverdir"


class TargetLocked(TargetUnusable):
    """Another process holds the writer's lock of this target."""

    default_hint = "wait for the other replisync to end, or stop it"


class UnreadableText(TargetUnusable):
    """The target's database has text that cannot be decoded."""

    default_hint = Hint("find and repair it with {}", Advice("verify", repair=True))


class ForeignWriter(TargetUnusable):
    """Another process wrote to the target while we held our lock."""

    default_hint = "find out which devpi-server wrote to the standby; it can no longer follow the primary"


class LocalFailure(ReplisyncError):
    """The disk, a permission or the target's database failed."""

    exit_code = 7
    transient = True
    default_hint = "fix it and run the command again: it resumes"


class NotPermitted(LocalFailure):
    """Owner, mode or a read-only file system denies access to a file or folder."""


class FilesMissing(ReplisyncError):
    """The primary did not deliver files that this serial needs."""

    exit_code = 3
    transient = True
    default_hint = Hint(
        "check {}, then run the command again: the serial waits for these files", Advice("faults list")
    )


class VerificationFailed(ReplisyncError):
    """A verification found problems that remain."""

    exit_code = 8
    default_hint = "check the findings"


class ConditionFailed(ReplisyncError):
    """A requested condition does not hold."""

    exit_code = 9
    default_hint = "nothing was changed"


class Stopped(ConditionFailed):
    """A signal ended the run before the work was done; what was done so far is complete.

    The code is what a shell shows after SIGTERM; `follow`, which has no other end, exits with 0 instead.
    """

    exit_code = 143
    default_hint = "run the command again: it resumes"
