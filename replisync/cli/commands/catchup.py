"""`replisync catchup`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replisync.cli.command import command
from replisync.cli.options import (
    file_options,
    patience_option,
    secret_options,
    serverdir_option,
    settings,
    storage_option,
    target,
    tls_options,
    watched,
)
from replisync.cli.output import naming_reseed
from replisync.cli.parameters import Duration
from replisync.operations import Goal, run_catchup


@command(
    short="Bring the standby up to date once, then exit",
    example="catchup --serverdir DIR --replica-keyfile F",
)
@serverdir_option
@storage_option
@click.option("--primary-url", metavar="URL", help="The primary's new URL, if it moved.")
@secret_options
@tls_options
@click.option("--to-serial", type=click.IntRange(0), metavar="N", help="Stop at serial N.")
@click.option(
    "--timeout",
    type=Duration(positive=True),
    metavar="TIME",
    help="Stop after TIME: exit 9, or 3 if the primary kept failing until then.",
)
@click.option(
    "--adopt-primary-uuid",
    is_flag=True,
    help="Accept the primary's new UUID, if its whole history up to our serial is ours.",
)
@file_options
@patience_option
@click.pass_obj
def catchup(
    log: Any,
    /,
    serverdir: Path,
    primary_url: str | None,
    storage: str | None,
    **values: Any,
) -> None:
    """Apply changes up to the primary's current serial, then exit."""
    # Only who names it now means now: a service, and a file of settings, name it at every start.
    named = click.get_current_context().get_parameter_source("retention") is ParameterSource.COMMANDLINE
    with watched(log) as context, naming_reseed():
        done = run_catchup(
            target(serverdir, storage),
            replace(settings(values), expire_at_once=named),
            context,
            primary_url=primary_url,
            goal=Goal(**{name: values[name] for name in ("to_serial", "timeout", "adopt_primary_uuid")}),
        )
    if done.serial == done.from_serial:
        click.echo(f"{serverdir} is at serial {done.serial} already")
    else:
        click.echo(
            f"{serverdir} went from serial {done.from_serial} to {done.serial}, with {done.files} files "
            f"({done.bytes} bytes)" + (f" and {done.local} from this machine" if done.local else "")
        )
