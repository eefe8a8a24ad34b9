"""The commands that copy: clone, catchup, follow."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.options import (
    PATH,
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
from replisync.errors import Stopped, UsageError
from replisync.follow import run_catchup, run_follow
from replisync.seed.basecopy import copy as copy_serverdir
from replisync.seed.changelog import clone as run_clone
from replisync.seed.export import ImportOptions, copy_dump


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
@click.option("--no-root-pypi", is_flag=True, help="With --from-export: leave the mirror root/pypi out.")
@click.option(
    "--no-events", is_flag=True, help="With --from-export: leave events to the first start of the server."
)
@secret_options
@tls_options
@click.option(
    "--storage",
    default="sqlite",
    show_default=True,
    metavar="SPEC",
    help="devpi-server's storage for the target.",
)
@file_options
@patience_option
@click.pass_obj
def clone(
    log: Any,
    /,
    serverdir: Path,
    primary_url: str | None,
    from_serverdir: Path | None,
    from_export: Path | None,
    at_serial: int | None,
    no_root_pypi: bool,
    no_events: bool,
    storage: str,
    **values: Any,
) -> None:
    """Copy a primary into a new serverdir; run again after an interruption, it resumes."""
    if from_export is None and (at_serial is not None or no_root_pypi or no_events):
        raise UsageError("clone", "--at-serial, --no-root-pypi and --no-events go with --from-export")
    if from_export is not None and from_serverdir is not None:
        raise UsageError("clone", "--from-export and --from-serverdir exclude each other")
    with watched(log) as context:
        new, chosen = target(serverdir, storage), settings(values)
        if from_export is not None:
            options = ImportOptions(no_root_pypi, no_events)
            done = copy_dump(new, from_export, at_serial, primary_url, options, chosen, context)
        elif from_serverdir is not None:
            done = copy_serverdir(new, from_serverdir, primary_url, chosen, context)
        elif primary_url is not None:
            done = run_clone(new, primary_url, chosen, context)
        else:
            raise UsageError(
                "clone", "there is no source: give --primary-url, --from-serverdir or --from-export"
            )
    what = "standby" if done.role == "replica" else "server of its own"
    click.echo(
        f"{serverdir} is a {what} at serial {done.serial}, with {done.files.total - done.files.missing} of "
        f"{done.files.total} files"
        + (f", {done.local} of them from this machine" if done.local else "")
        + (f", {done.faults} could not be had (see `replisync faults list`)" if done.faults else "")
    )


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
    with watched(log) as context:
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
    with watched(log) as context:
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


ALL = (clone, catchup, follow)
