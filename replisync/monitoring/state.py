"""The state of a standby in one word: why, since when, how far behind, and the command that helps."""

from dataclasses import dataclass

from replisync.changelog import Contact, Divergence, Run
from replisync.errors import Advice, WrongHistory
from replisync.monitoring.position import Position
from replisync.system import clock

# Without contact to the primary for this long, being at its last known serial proves little.
STALE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Known:
    """The facts of a standby that its state follows from.

    serial: its last serial.
    role: the role that devpi-server would start with; None before the clone is complete.
    promoted: when it was promoted, or None.
    run: the last run, or None.
    running: whether that run is active.
    asked: whether the primary was asked just now.
    """

    serial: int
    role: str | None
    promoted: str | None
    position: Position
    contact: Contact | None
    divergence: Divergence | None
    run: Run | None
    running: bool
    asked: bool

    @property
    def behind_us(self) -> bool:
        """Whether the primary, asked just now, is at a lower serial."""
        return self.position.own is not None and self.position.own < self.serial

    @property
    def primary_serial(self) -> int | None:
        """The primary's serial by its own answer if that is lower than ours, else the highest one known."""
        return self.position.own if self.behind_us else self.position.serial

    @property
    def state(self) -> str:
        """The state, as in `status --json`."""
        if self.role not in (None, "replica") or self.promoted is not None:
            return "promoted"
        if self.role is None:
            return "cloning"
        if self.divergence is not None or isinstance(self.position.error, WrongHistory) or self.behind_us:
            return "diverged"
        heard = self.contact.contacted_at if self.contact else None
        long_ago = heard is None or clock.seconds_since(heard) > STALE_SECONDS
        if self.position.error is not None or (not self.asked and long_ago):
            return "stale"
        return "behind" if self.lag_serials else "current"

    @property
    def lag_serials(self) -> int | None:
        """The serials of the primary that the standby lacks, at least; None if unknown."""
        primary = self.primary_serial
        return None if primary is None else max(0, primary - self.serial)

    @property
    def lag_seconds(self) -> float | None:
        """The longest time, in seconds, that the standby may have been behind; None if unknown."""
        if self.position.own is not None and not self.lag_serials:
            return 0.0
        in_sync = self.contact.in_sync_at if self.contact else None
        return None if in_sync is None else round(clock.seconds_since(in_sync), 1)

    @property
    def since(self) -> str | None:
        """The time from which the state holds, or the last time before it; None if unknown."""
        contact = self.contact
        return {
            "promoted": self.promoted,
            "cloning": None,
            "diverged": self.divergence.found_at if self.divergence else None,
            "stale": contact.contacted_at if contact else None,
            "behind": contact.in_sync_at if contact else None,
            "current": None,
        }[self.state]

    @property
    def trouble(self) -> str | None:
        """The error that the active run is retrying, or None."""
        run = self.run
        return run.error if run is not None and self.running and run.outcome == "running" else None

    def explained(self) -> tuple[str | None, Advice | None]:
        """Return why the standby is not current, and the command to run, if one helps."""
        why, following = self._explained()
        if self.trouble and self.run and self.state != "promoted":
            why = "; ".join(filter(None, [why, f"`{self.run.command}` is retrying: {self.trouble}"]))
        return why, following

    def _explained(self) -> tuple[str | None, Advice | None]:
        state, position = self.state, self.position
        # An active run needs no other command.
        catchup = None if self.running else Advice("catchup")
        if state == "cloning":
            return "its clone is not complete" + (
                "" if self.running else ": the same `clone` resumes it"
            ), None
        if state == "diverged":
            if self.divergence is None:
                behind = f"the primary is at serial {position.own}, behind ours, {self.serial}"
                return position.why or behind, catchup
            fork = self.divergence.fork_serial
            return self.divergence.reason, None if fork is None else Advice("rewind", to_serial=fork)
        if state == "stale":
            if position.error:
                return f"the primary cannot be asked: {position.why}", None
            return "the last contact to the primary was more than five minutes ago", catchup
        if state == "behind":
            return f"the primary is at serial {position.serial}, {self.lag_serials} ahead of ours", catchup
        return None, None
