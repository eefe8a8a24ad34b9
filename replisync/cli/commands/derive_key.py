"""`replisync derive-key`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.options import cost_options, key_cost, secretfile_option
from replisync.cli.parameters import PATH
from replisync.devpi import derive_key as derive
from replisync.errors import UsageError
from replisync.primary import check_place, read_secret, write_key


@command(
    "derive-key",
    short="Derive the replication key from the server's secret",
    example="derive-key --secretfile F --output F",
)
@secretfile_option
@click.option("--output", type=PATH, required=True, metavar="F", help="The file to write, mode 0600.")
@cost_options
def derive_key(secretfile: Path | None, output: Path, **values: Any) -> None:
    """Write the replication key, derived from the server's secret."""
    if secretfile is None:
        raise UsageError("cannot read the secret", "--secretfile is not given")
    check_place(output)  # before the work
    write_key(output, derive(read_secret(secretfile), key_cost(values)))
    click.echo(f"{output} gives access to the changelog of servers with this secret, and to nothing else")
