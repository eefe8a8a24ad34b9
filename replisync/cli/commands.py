"""The commands that copy: clone, catchup, follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

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
from replisync.errors import PrimaryDamaged, Stopped
from replisync.follow import run_catchup, run_follow
from replisync.seed.export import ImportOptions
from replisync.seed.reseed import Reseeded
from replisync.seed.reseed import reseed as run_reseed
from replisync.seed.target import Cloned
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
@click.option("--no-root-pypi", is_flag=True, help="With an export: leave the mirror root/pypi out.")
@click.option(
    "--no-events", is_flag=True, help="With an export: leave events to the first start of the server."
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
    seed: str,
    reseed: bool,
    no_root_pypi: bool,
    no_events: bool,
    storage: str,
    **values: Any,
) -> None:
    """Copy a primary into a new serverdir; run again after an interruption, it resumes."""
    sources = Sources(primary_url, from_serverdir, from_export, at_serial)
    options = ImportOptions(no_root_pypi, no_events)
    with watched(log) as context:
        new, chosen = target(serverdir, storage), settings(values)
        if reseed:
            source = click.get_current_context().get_parameter_source("storage")
            given = None if source is ParameterSource.DEFAULT else new.given
            work = (sources, Seed(seed), options, chosen, context)
            _tell_reseeded(serverdir, run_reseed(serverdir, given, new.password, *work))
            return
        done = run_clone(new, sources, Seed(seed), options, chosen, context)
    what = "standby" if done.role == "replica" else "server of its own"
    click.echo(
        f"{serverdir} is a {what} at serial {done.serial}, with {done.files.total - done.files.missing} of "
        f"{done.files.total} files"
        + (f", {done.local} of them from this machine" if done.local else "")
        + (f", {done.faults} could not be had (see `replisync faults list`)" if done.faults else "")
    )
    _tell_export(done)


def _tell_export(done: Cloned) -> None:
    if done.export_reason is not None:
        click.echo(
            f"It was made by way of an export ({done.export_reason}): it has no history before that, and of "
            "mirrors their settings alone"
        )


def _tell_reseeded(serverdir: Path, done: Reseeded) -> None:
    click.echo(
        f"{serverdir} is a new standby at serial {done.serial}; the former one is {done.kept}, to be removed "
        "when it is not needed any more"
    )
    if done.cloned is not None:
        _tell_export(done.cloned)
    if done.left:
        click.echo(f"These files of yours are in the former one alone: {', '.join(done.left)}")
    click.echo("A devpi-server that serves this standby has to be started again")


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
    with watched(log) as context, _naming_reseed(serverdir):
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
    with watched(log) as context, _naming_reseed(serverdir):
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
def _naming_reseed(serverdir: Path) -> Iterator[None]:
    """Tell those whose primary has no history to go on with what there is."""
    try:
        yield
    except PrimaryDamaged as err:
        err.hint += (
            f"; where it cannot be mended, `replisync clone --reseed --serverdir {serverdir}` makes a new "
            "standby beside this one, of the changelog, or with --from-serverdir or --from-export"
        )
        raise


ALL = (clone, catchup, follow)
