"""Output that several commands share."""

import json as jsonlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from replisync.errors import Advice, Hint, PrimaryDamaged
from replisync.system import clock


def print_json(value: Any) -> None:
    """Print a value as JSON, and hints in it as text."""
    click.echo(jsonlib.dumps(value, indent=2, ensure_ascii=False, default=str))


@contextmanager
def naming_reseed() -> Iterator[None]:
    """Add to a PrimaryDamaged error how to rebuild the standby."""
    try:
        yield
    except PrimaryDamaged as err:
        err.hint = Hint(
            "{}; if it cannot be repaired, rebuild the standby with {}, from the changelog, or with "
            "--from-serverdir or --from-export",
            err.hint,
            Advice("clone", reseed=True),
        )
        raise


def duration(seconds: float) -> str:
    """Return a length of time in words, such as "90 s", "12 min", "3 h" or "5 days"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"


def age(moment: str) -> str:
    """Return how long ago a time was, in words."""
    return f"{duration(clock.seconds_since(moment))} ago"
