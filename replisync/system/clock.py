"""Wall time in the format of the tables and the output."""

from datetime import UTC, datetime, timedelta

# No time that we can write is later.
LAST = "9999-12-31T23:59:59.999Z"

# As many days are before any time that we meet: 1,900 years.
_MOST_DAYS = 700_000.0


def now() -> str:
    """Return the time, RFC 3339 in UTC with milliseconds; sorts as text."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def later(seconds: float) -> str:
    """Return the time `seconds` from now."""
    return stamp(datetime.now(UTC) + timedelta(seconds=seconds))


def days_before(moment: str, days: float) -> str:
    """Return the time that is `days` before a moment."""
    return stamp(datetime.fromisoformat(moment) - timedelta(days=min(_MOST_DAYS, days)))


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
