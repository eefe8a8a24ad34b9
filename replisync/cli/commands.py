"""The commands that copy: clone, catchup, follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replisync.cli.cloned import show_forecast, show_reseeded, show_result
from replisync.cli.options import (
    PATH,
    cover_password,
    file_options,
    json_option,
    patience_option,
    secret_options,
    serverdir_option,
    settings,
    storage_option,
    target,
    tls_options,
    tool_options,
    tools,
    watched,
)
from replisync.errors import PrimaryDamaged, Stopped
from replisync.follow import run_catchup, run_follow
from replisync.seed.forecast import forecast
from replisync.seed.reseed import forecast_reseed
from replisync.seed.reseed import reseed as run_reseed
from replisync.seed.ways import Seed, Sources
from replisync.seed.ways import clone as run_clone


@click.command()
@serverdir_option
@click.option("--primary-url", metavar="URL", help="Where the primary is.")
@click.option(
    "--from-serverdir",
    type=PATH,
    metavar="DIR",
    help="Copy this serverdir of the primary, which may be running; its database must be SQLite.",
)
@click.option(
    "--from-export",
    type=PATH,
    metavar="DIR",
    help="Import this dump of devpi-export, by way of devpi-import.",
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
    help="By the history, by way of an export, or as it can be had.",
)
@click.option(
    "--reseed",
    is_flag=True,
    help="Make the standby DIR anew beside it, and put the new one in its place when it is proved.",
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
    help="devpi-server's storage for the target.",
)
@file_options
@patience_option
@click.option("--plan", is_flag=True, help="Say what would be fetched, and write nothing.")
@json_option
@click.pass_obj
def clone(
    log: Any,
    /,
    serverdir: Path,
    primary_url: str | None,
    from_serverdir: Path | None,
    from_export: Path | None,
    at_serial: int | None,
    seed: str,
    reseed: bool,
    storage: str,
    plan: bool,
    json: bool,
    **values: Any,
) -> None:
    """Copy a primary into a new serverdir; run again after an interruption, it resumes."""
    sources = Sources(primary_url, from_serverdir, from_export, at_serial)
    options = tools(values)
    with watched(log) as context:
        new, chosen = target(serverdir, storage), settings(values)
        work = (sources, Seed(seed), options, chosen, context)
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


@click.command()
@serverdir_option
@storage_option
@click.option("--primary-url", metavar="URL", help="Where the primary is now, if it moved.")
@secret_options
@tls_options
@click.option("--to-serial", type=click.IntRange(0), metavar="N", help="Apply nothing beyond serial N.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End after so many seconds, wherever it is: exit 9, or 3 where the primary failed until then.",
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
    to_serial: int | None,
    timeout: float | None,
    **values: Any,
) -> None:
    """Apply everything up to the primary's serial as of now, then end."""
    with watched(log) as context, _naming_reseed():
        done = run_catchup(
            target(serverdir, storage),
            settings(values),
            context,
            primary_url=primary_url,
            to_serial=to_serial,
            timeout=timeout,
        )
    if done.serial == done.from_serial:
        click.echo(f"{serverdir} is at serial {done.serial} already")
    else:
        click.echo(
            f"{serverdir} went from serial {done.from_serial} to {done.serial}, with {done.files} files "
            f"({done.bytes} bytes)" + (f" and {done.local} from this machine" if done.local else "")
        )


@click.command()
@serverdir_option
@storage_option
@click.option("--primary-url", metavar="URL", help="Where the primary is now, if it moved.")
@secret_options
@tls_options
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Bear failures that may pass for so many seconds; without it, for ever.",
)
@file_options
@click.pass_obj
def follow(
    log: Any,
    /,
    serverdir: Path,
    primary_url: str | None,
    storage: str | None,
    timeout: float | None,
    **values: Any,
) -> None:
    """Apply each change as the primary commits it, until SIGTERM or SIGINT."""
    with watched(log) as context, _naming_reseed():
        try:
            run_follow(
                target(serverdir, storage),
                settings(values),
                context,
                primary_url=primary_url,
                timeout=timeout,
            )
        except Stopped:
            log.info("stopped")


@contextmanager
def _naming_reseed() -> Iterator[None]:
    """Tell those whose primary has no history to go on with what there is."""
    try:
        yield
    except PrimaryDamaged as err:
        err.hint += (
            "; where it cannot be mended, `replisync clone --reseed` makes a new "
            "standby beside this one, of the changelog, or with --from-serverdir or --from-export"
        )
        raise


ALL = (clone, catchup, follow)
