"""Wall time as the tables and the output have it, and the time since the machine was started."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks: one that anybody may set, and one that runs evenly until the machine stops.

    wall: RFC 3339.
    boot: which start of which machine; None where the system does not tell.
    boottime: seconds since then, with those in which the machine was suspended.
    """

    wall: str
    boot: str | None
    boottime: float


def moment() -> Moment:
    """Return this moment."""
    try:
        with open(_BOOT_ID, encoding="utf-8") as file:
            boot = file.read(64).strip() or None
    except (OSError, ValueError):
        boot = None
    # Linux has both or, long ago, none of them.
    return Moment(now(), boot, time.clock_gettime(time.CLOCK_BOOTTIME) if boot else 0.0)


def now() -> str:
    """Return the time, RFC 3339 in UTC, to the millisecond: it sorts as text."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def later(seconds: float) -> str:
    """Return the time in so many seconds."""
    return stamp(datetime.now(UTC) + timedelta(seconds=seconds))


def seconds_since(moment: str) -> float:
    """Return how many seconds ago a moment was; never negative."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def epoch(moment: str) -> float:
    """Return a moment in seconds since the epoch, as file systems tell the time."""
    return datetime.fromisoformat(moment).timestamp()


def seconds_since_epoch(moment: float) -> float:
    """Return how many seconds ago a moment was that a file system told; never negative."""
    return max(0.0, datetime.now(UTC).timestamp() - moment)


def is_time(moment: str) -> bool:
    """Tell whether a text is a moment, RFC 3339."""
    try:
        return datetime.fromisoformat(moment).tzinfo is not None
    except ValueError:
        return False
