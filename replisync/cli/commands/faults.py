"""`replisync faults`."""

from dataclasses import asdict
from pathlib import Path

import click

from replisync.cli.logs import printable
from replisync.cli.options import json_option, serverdir_option, storage_option, target
from replisync.cli.output import print_json
from replisync.operations import clear_faults, list_faults, retry_faults, skip_fault


@click.group()
def faults() -> None:
    """Files that could not be fetched: list, retry or skip them."""


@faults.command("list")
@serverdir_option
@storage_option
@json_option
def faults_list(serverdir: Path, storage: str | None, json: bool) -> None:
    """List the files that could not be fetched, and why."""
    found = list_faults(target(serverdir, storage))
    if json:
        print_json([asdict(fault) for fault in found])
        return
    for fault in found:
        again = f", next try {fault.next_try}" if fault.next_try else ""
        click.echo(
            f"{printable(fault.relpath)}  serial {fault.serial}, {fault.kind}, "
            f"{fault.tries} tries{again}: {printable(fault.reason)}"
        )


@faults.command("retry")
@serverdir_option
@storage_option
def faults_retry(serverdir: Path, storage: str | None) -> None:
    """Make the next `catchup`, or a running `follow`, retry all of them."""
    click.echo(f"{retry_faults(target(serverdir, storage))} files will be retried")


@faults.command("skip")
@serverdir_option
@storage_option
@click.argument("relpath")
def faults_skip(serverdir: Path, storage: str | None, relpath: str) -> None:
    """Continue without RELPATH, which holds the serial back."""
    skip_fault(target(serverdir, storage), relpath)
    click.echo(f"{relpath} no longer holds the serial back")


@faults.command("clear")
@serverdir_option
@storage_option
def faults_clear(serverdir: Path, storage: str | None) -> None:
    """Clear the list; files that are still missing return with their next try."""
    click.echo(f"{clear_faults(target(serverdir, storage))} faults cleared")
