"""Wall time in the format of the tables and the output, and time since the machine booted."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks: wall time, which can be set, and boot time, which is monotonic.

    wall: RFC 3339.
    boot: ID of this boot of this machine; None if the system has none.
    boottime: seconds since boot, including time suspended.
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
    # Linux has both; very old kernels have neither.
    return Moment(now(), boot, time.clock_gettime(time.CLOCK_BOOTTIME) if boot else 0.0)


def now() -> str:
    """Return the time, RFC 3339 in UTC with milliseconds; sorts as text."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def later(seconds: float) -> str:
    """Return the time `seconds` from now."""
    return stamp(datetime.now(UTC) + timedelta(seconds=seconds))


def seconds_since(moment: str) -> float:
    """Return the seconds since a moment; never negative."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def epoch(moment: str) -> float:
    """Return a moment in seconds since the epoch, as in file times."""
    return datetime.fromisoformat(moment).timestamp()


def seconds_since_epoch(moment: float) -> float:
    """Return the seconds since a file time; never negative."""
    return max(0.0, datetime.now(UTC).timestamp() - moment)


def is_time(moment: str) -> bool:
    """Return whether a text is an RFC 3339 time."""
    try:
        return datetime.fromisoformat(moment).tzinfo is not None
    except ValueError:
        return False
