"""What several commands print."""

import json as jsonlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from replisync.errors import PrimaryDamaged


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(jsonlib.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def naming_reseed() -> Iterator[None]:
    """Tell those whose primary has no history to go on with what there is."""
    try:
        yield
    except PrimaryDamaged as err:
        err.hint += (
            "; if it cannot be repaired, rebuild the standby with `replisync clone --reseed`, from the "
            "changelog, or with --from-serverdir or --from-export"
        )
        raise
