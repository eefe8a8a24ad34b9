"""`replisync derive-key`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.options import PATH, cost_options, key_cost, secretfile_option
from replisync.devpi import derive_key as derive
from replisync.errors import UsageError
from replisync.primary import check_place, read_secret, write_key


@click.command("derive-key")
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
