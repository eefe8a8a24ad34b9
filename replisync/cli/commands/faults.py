"""`replisync faults`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from replisync.changelog import HELD, MIRROR, SKIPPED, UNFETCHABLE
from replisync.cli.command import Group
from replisync.cli.logs import printable
from replisync.cli.options import json_option, serverdir_option, storage_option, target
from replisync.cli.output import print_json
from replisync.errors import Advice, Hint, UsageError
from replisync.operations import clear_faults, list_faults, retry_faults, skip_faults

# The advice for each kind of fault, after its number of files.
_ADVICE = {
    HELD: Hint(
        "hold the serial back: restore them on the primary, or, if they are lost, continue without them: {}",
        Advice("faults skip", all=True),
    ),
    MIRROR: Hint("of mirrors are retried by themselves; at once: {}", Advice("faults retry")),
    UNFETCHABLE: Hint("can never be fetched under their names; `promote` asks for --accept-loss"),
    SKIPPED: Hint("are left out; if they are on the primary again: {}", Advice("faults retry")),
}

_all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


@click.group(cls=Group, short_help="List, retry or skip files that cannot be fetched")
def faults() -> None:
    """Files that could not be fetched: list, retry or skip them."""


@faults.command(
    "list",
    short_help="List the files that could not be fetched, and why",
    example="faults list --serverdir DIR",
)
@serverdir_option
@storage_option
@json_option
def faults_list(serverdir: Path, storage: str | None, json: bool) -> None:
    """List the files that could not be fetched, and why."""
    found = list_faults(target(serverdir, storage))
    if json:
        print_json([asdict(fault) for fault in found])
        return
    if not found:
        click.echo("no faults")
    for fault in found:
        again = f", next try {fault.next_try}" if fault.next_try else ""
        click.echo(
            f"{printable(fault.relpath)}  serial {fault.serial}, {fault.kind}, "
            f"{fault.tries} tries{again}: {printable(fault.reason)}"
        )
    for kind, number in Counter(fault.kind for fault in found).items():
        click.echo(
            f"{kind}: {number} files {_ADVICE[kind]}" if kind in _ADVICE else f"{kind}: {number} files"
        )


def _check_one(names: tuple[str, ...], *, everything: bool, verb: str) -> None:
    if everything and names:
        raise UsageError(f"cannot {verb} files", "--all and RELPATH exclude each other")


@faults.command(
    "retry",
    short_help="Retry them soon",
    example="faults retry --serverdir DIR",
)
@serverdir_option
@storage_option
@_all_option
@click.argument("relpath", nargs=-1)
def faults_retry(serverdir: Path, storage: str | None, relpath: tuple[str, ...], everything: bool) -> None:
    """Make the next `catchup`, or a running `follow`, retry them; without RELPATH all."""
    _check_one(relpath, everything=everything, verb="retry")
    click.echo(f"{retry_faults(target(serverdir, storage), relpath)} files will be retried")


@faults.command(
    "skip",
    short_help="Continue without files that hold the serial back",
    example="faults skip --serverdir DIR --all",
)
@serverdir_option
@storage_option
@_all_option
@click.argument("relpath", nargs=-1)
def faults_skip(serverdir: Path, storage: str | None, relpath: tuple[str, ...], everything: bool) -> None:
    """Continue without files that hold the serial back: RELPATH, or a pattern such as 'root/dev/*'."""
    _check_one(relpath, everything=everything, verb="skip")
    if not relpath and not everything:
        raise UsageError("cannot skip files", "none is named", hint="give RELPATH, or --all")
    click.echo(f"{skip_faults(target(serverdir, storage), relpath)} files no longer hold the serial back")


@faults.command(
    "clear",
    short_help="Clear the list",
    example="faults clear --serverdir DIR",
)
@serverdir_option
@storage_option
@_all_option
@click.argument("relpath", nargs=-1)
def faults_clear(serverdir: Path, storage: str | None, relpath: tuple[str, ...], everything: bool) -> None:
    """Clear the list, or RELPATH of it; files that are still missing return with their next try."""
    _check_one(relpath, everything=everything, verb="clear")
    click.echo(f"{clear_faults(target(serverdir, storage), relpath)} faults cleared")
