"""`replisync clone`."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replisync.cli.command import command
from replisync.cli.commands.clone_output import show_forecast, show_reseeded, show_result
from replisync.cli.options import (
    cover_password,
    file_options,
    json_option,
    patience_option,
    secret_options,
    serverdir_option,
    settings,
    target,
    tls_options,
    tool_options,
    tools,
    watched,
)
from replisync.cli.parameters import PATH
from replisync.operations import forecast_reseed
from replisync.operations import reseed as run_reseed
from replisync.seed import Seed, Seeding, Sources, forecast
from replisync.seed import clone as run_clone


@command(
    short="Make a standby: a full copy of a primary",
    example="clone --primary-url https://devpi.example.com/ --replica-keyfile F --serverdir DIR",
)
@serverdir_option
@click.option("--primary-url", metavar="URL", help="The primary's URL.")
@click.option(
    "--from-serverdir",
    type=PATH,
    metavar="DIR",
    help="Copy this serverdir of the primary, which may be running (SQLite only).",
)
@click.option(
    "--from-export",
    type=PATH,
    metavar="DIR",
    help="Import this dump of devpi-export with devpi-import.",
)
@click.option(
    "--at-serial",
    type=click.IntRange(0),
    metavar="N",
    help="With --from-export: the primary's serial when the dump was made.",
)
@click.option(
    "--seed",
    type=click.Choice([seed.value for seed in Seed]),
    default=Seed.AUTO.value,
    show_default=True,
    help="Seed from the changelog, from an export, or from the first that works.",
)
@click.option(
    "--reseed",
    is_flag=True,
    help="Rebuild the standby next to DIR and swap it in once it verifies.",
)
@tool_options
@secret_options
@tls_options
@click.option(
    "--storage",
    default="sqlite",
    show_default=True,
    metavar="SPEC",
    callback=cover_password,
    help="The target's storage, in devpi-server's format.",
)
@file_options
@patience_option
@click.option("--plan", is_flag=True, help="Print what would be fetched; write nothing.")
@json_option
@click.pass_obj
def clone(
    log: Any,
    /,
    serverdir: Path,
    reseed: bool,
    plan: bool,
    json: bool,
    **values: Any,
) -> None:
    """Copy a primary into a new serverdir.

    Run it again after an interruption to resume.
    """
    names = ("primary_url", "from_serverdir", "from_export", "at_serial")
    sources = Sources(*(values.pop(name) for name in names))
    seeding = Seeding(sources, Seed(values.pop("seed")), tools(values))
    with watched(log) as context:
        new, chosen = target(serverdir, values.pop("storage")), settings(values)
        work = (seeding, chosen, context)
        if reseed:
            source = click.get_current_context().get_parameter_source("storage")
            given = None if source is ParameterSource.DEFAULT else new.given
            if plan:
                found = forecast_reseed(serverdir, given, new.password, *work)
            else:
                reseeded = run_reseed(serverdir, given, new.password, *work)
        elif plan:
            found = forecast(new, *work)
        else:
            done = run_clone(new, *work)
    if plan:
        show_forecast(found, as_json=json)
    elif reseed:
        show_reseeded(serverdir, reseeded, as_json=json)
    else:
        show_result(serverdir, done, as_json=json)
