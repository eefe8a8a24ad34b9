"""`replisync rewind`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.options import (
    dry_run_option,
    json_option,
    secret_options,
    serverdir_option,
    settings,
    storage_option,
    target,
    tls_options,
    transfer_options,
    watched,
)
from replisync.cli.output import print_json
from replisync.errors import Advice
from replisync.rewind import rewind as run_rewind


@command(
    short="Take the standby back to an earlier serial",
    example="rewind --serverdir DIR --to-serial 4690 --replica-keyfile F",
)
@serverdir_option
@storage_option
@click.option(
    "--to-serial", type=click.IntRange(0), metavar="N", required=True, help="The serial to rewind to."
)
@secret_options
@tls_options
@click.option("--accept-loss", is_flag=True, help="Rewind even if files that serial N needs are missing.")
@transfer_options
@dry_run_option
@json_option
@click.pass_obj
def rewind(
    log: Any,
    /,
    serverdir: Path,
    storage: str | None,
    to_serial: int,
    json: bool,
    **values: Any,
) -> None:
    """Rewind the standby to an earlier serial.

    It can then follow the primary from there.
    """
    with watched(log) as context:
        chosen = settings(values)
        done = run_rewind(target(serverdir, storage), to_serial, chosen, context, **values)
    if json:
        print_json(asdict(done))
        return
    if not done.entries:
        click.echo(f"{done.serverdir} is at serial {done.to_serial} already")
        return
    rewound = "would be rewound" if done.dry_run else "was rewound"
    click.echo(
        f"{done.serverdir} {rewound} from serial {done.from_serial} to {done.to_serial}: "
        f"{done.restored} files restored, {done.fetched} of them from the primary, {done.put_aside} retained"
    )
    if done.missing:
        click.echo(
            f"{done.missing} files are missing: the primary deleted them later, or they are listed by "
            f"{Advice('faults list')}"
        )
    if not done.dry_run:
        click.echo("restart a devpi-server that was running on it: it caches what it has read")
