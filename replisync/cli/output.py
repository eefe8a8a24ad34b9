"""Output that several commands share."""

import json as jsonlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from replisync.errors import Advice, Hint, PrimaryDamaged


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
