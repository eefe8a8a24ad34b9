"""`replisync rewind`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from replisync.cli.options import (
    addressed,
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
from replisync.rewind.rewind import rewind as run_rewind


@click.command()
@serverdir_option
@storage_option
@click.option(
    "--to-serial", type=click.IntRange(0), metavar="N", required=True, help="The serial to go back to."
)
@secret_options
@tls_options
@click.option("--accept-loss", is_flag=True, help="Go back although files are missing that serial N needs.")
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
    accept_loss: bool,
    dry_run: bool,
    json: bool,
    **values: Any,
) -> None:
    """Take the standby back to serial N, to go on from there with what the primary has."""
    with watched(log) as context:
        done = run_rewind(
            target(serverdir, storage),
            to_serial,
            settings(values),
            context,
            accept_loss=accept_loss,
            dry_run=dry_run,
        )
    if json:
        print_json(asdict(done))
        return
    if not done.entries:
        click.echo(f"{done.serverdir} is at serial {done.to_serial} already")
        return
    would = "would go" if done.dry_run else "went"
    click.echo(
        f"{done.serverdir} {would} back from serial {done.from_serial} to {done.to_serial}: {done.restored} "
        f"files come back, {done.fetched} from the primary, {done.put_aside} are retained"
    )
    if done.missing:
        listed = addressed("`replisync faults list`", serverdir)
        click.echo(f"{done.missing} files are missing: the primary deleted them later, or {listed} has them")
    if not done.dry_run:
        click.echo("start a devpi-server again that was running on it: it remembers what it has read")
