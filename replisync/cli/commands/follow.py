"""`replisync follow`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.options import (
    file_options,
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
from replisync.errors import Stopped
from replisync.operations import run_follow


@command(
    short="Keep the standby current until stopped",
    example="follow --serverdir DIR --replica-keyfile F",
)
@serverdir_option
@storage_option
@click.option("--primary-url", metavar="URL", help="The primary's new URL, if it moved.")
@secret_options
@tls_options
@click.option(
    "--patience",
    "--timeout",
    "timeout",
    type=Duration(positive=True),
    metavar="TIME",
    help="Retry transient failures for up to TIME without progress; default: forever.",
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
    """Apply each change as the primary commits it.

    End with exit code 0 on SIGTERM or SIGINT.
    """
    with watched(log) as context, naming_reseed():
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
