"""`replisync promote`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.logs import printable
from replisync.cli.options import (
    dry_run_option,
    json_option,
    serverdir_option,
    storage_option,
    target,
    tls,
    tls_options,
)
from replisync.cli.output import print_json
from replisync.cli.progress import Lines
from replisync.operations import Choices
from replisync.operations import promote as run_promote
from replisync.replication import Context
from replisync.system import Stop, quoted


@command(
    short="Turn the standby into a primary",
    example="promote --serverdir DIR --dry-run",
)
@serverdir_option
@storage_option
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Promote even if the primary has more, files are missing, or `verify` found damage.",
)
@click.option(
    "--keep-identity",
    is_flag=True,
    help="Take the primary's UUID, so that its other replicas can follow this server.",
)
@click.option("--replay-events", is_flag=True, help="Replay all of the history to devpi-server's plugins.")
@dry_run_option
@tls_options
@json_option
@click.pass_obj
def promote(log: Any, /, serverdir: Path, storage: str | None, json: bool, **choices: Any) -> None:
    """Make the standby startable as primary.

    Check first that it is complete.
    """
    # Its stages are short: no display, and signals keep their default action.
    context = Context(Stop(), log, Lines(log))
    trusted = tls(choices)
    done = run_promote(target(serverdir, storage), context, Choices(**choices), trusted)
    if json:
        print_json(asdict(done))
        return
    would = "is" if done.already or not done.dry_run else "would be"
    since = f" already, since {done.promoted}," if done.already else ""
    click.echo(f"{done.serverdir} {would} a primary{since} at serial {done.serial}, with UUID {done.uuid}")
    if done.lost_serials or done.missing_files:
        click.echo(f"lost: {done.lost_serials} serials, {done.missing_files} files")
    if done.deleted_files:
        click.echo(f"{done.deleted_files} files that the primary deleted stay in place; no index names them")
    for warning in done.warnings:
        click.echo(f"warning: {printable(str(warning))}")
    for found in done.found:
        click.echo(f"not repaired: {printable(found)}")
    if done.unreachable:
        heard = f"; last contact: {done.last_contact}" if done.last_contact else ""
        click.echo(f"the old primary does not answer: {printable(done.unreachable)}{heard}")
        click.echo("changes that it accepted after that are unknown, and would be lost")
    if done.reachable:
        click.echo("the old primary still answers: make sure no client can write to it")
    if choices["keep_identity"]:
        click.echo("this UUID is the old primary's: its replicas and standbys can follow this server")
        click.echo("never start the old primary again")
    elif not done.already:
        click.echo(
            "this UUID is its own: replicas and standbys of the old primary refuse it, and need a new clone"
        )
        if done.dry_run:
            click.echo("with --keep-identity they can follow it, but the old primary must never start again")
    if done.already or not done.dry_run:
        words = f"devpi-server --serverdir {quoted(done.serverdir)} --role primary --secretfile F"
        if done.storage != "sqlite":
            words += f" --storage {quoted(f'{done.storage},password=..')}"
        click.echo(f"start it: {words}")
