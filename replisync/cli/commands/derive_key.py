"""`replisync derive-key`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.options import PATH, cost_options, key_cost, secretfile_option
from replisync.devpi.tokens import derive_key as derive
from replisync.errors import UsageError
from replisync.primary.secretfiles import check_place, read_secret, write_key


@click.command("derive-key")
@secretfile_option
@click.option("--output", type=PATH, required=True, metavar="F", help="Where to write it (0600).")
@cost_options
def derive_key(secretfile: Path | None, output: Path, **values: Any) -> None:
    """Write the key that only replication needs, derived from the server's secret."""
    if secretfile is None:
        raise UsageError("cannot read the secret", "--secretfile is not given")
    check_place(output)  # before the work
    write_key(output, derive(read_secret(secretfile), key_cost(values)))
    click.echo(f"{output} opens the changelog of servers with this secret, and nothing else")
