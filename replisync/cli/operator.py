"""The commands of an operator: status, promote, rewind, faults, derive-key."""

import json as jsonlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from replisync.advice import quoted
from replisync.auth import derive_key as derive
from replisync.cli.options import (
    PATH,
    addressed,
    cost_options,
    dry_run_option,
    json_option,
    key_cost,
    secret_options,
    secretfile_option,
    serverdir_option,
    settings,
    storage_option,
    target,
    tls,
    tls_options,
    transfer_options,
    watched,
)
from replisync.errors import ConditionFailed, UsageError
from replisync.faults import clear_faults, list_faults, retry_faults, skip_fault
from replisync.logs import printable
from replisync.progress import Lines
from replisync.promote import promote as run_promote
from replisync.rewind import rewind as run_rewind
from replisync.secretfiles import check_place, read_secret, write_key
from replisync.standby import Context
from replisync.status import check_lag
from replisync.status import status as run_status
from replisync.stop import Stop


def _print(value: Any) -> None:
    click.echo(jsonlib.dumps(value, indent=2, ensure_ascii=False))


@click.command()
@serverdir_option
@storage_option
@json_option
@click.option("--offline", is_flag=True, help="Do not ask the primary.")
@click.option("--max-lag-serials", type=click.IntRange(0), metavar="N", help="Exit 9 beyond so many serials.")
@click.option(
    "--max-lag-seconds", type=click.FloatRange(0), metavar="S", help="Exit 9 beyond so many seconds."
)
@tls_options
def status(
    serverdir: Path,
    storage: str | None,
    json: bool,
    offline: bool,
    max_lag_serials: int | None,
    max_lag_seconds: float | None,
    **values: Any,
) -> None:
    """Say where the standby stands."""
    fields = run_status(target(serverdir, storage), offline=offline, tls=tls(values))
    for name in ("error", "reason"):
        fields[name] = fields[name] and addressed(fields[name], serverdir)
    if not json:
        click.echo("\n".join(_status_lines(fields)))
    try:
        check_lag(fields, max_lag_serials, max_lag_seconds)
    except ConditionFailed as err:
        err.details = fields
        raise
    if json:
        _print(fields)


def _status_lines(fields: dict[str, Any]) -> list[str]:
    def known(value: Any, unit: str = "") -> str:
        return "unknown" if value is None else f"{value}{unit}"

    seed, run = fields["seed"], fields["last_run"]
    present = fields["files_total"] - fields["files_missing"]
    lag = f"{known(fields['lag_serials'], ' serials')}, {known(fields['lag_seconds'], ' s')}"
    if fields["state"] == "stale":
        # What the primary has accepted since then is unknown.
        lag = f"{known(fields['lag_serials'], ' serials')} or more, as of {known(fields['last_contact'])}"
    lines = [
        f"{fields['serverdir']}: {fields['state']}"
        + (f" - {printable(fields['reason'])}" if fields["reason"] else ""),
        f"  serial      {fields['serial']}, primary {known(fields['primary_serial'])}, behind by {lag}",
        f"  primary     {known(fields['primary_url'])} ({fields['primary_uuid']})",
        f"  last heard  {known(fields['last_contact'])}",
        f"  files       {present} of {fields['files_total']} here, {fields['faults']} faults",
        f"  seed        {seed['kind']} at serial {known(seed['serial'])}, finished {known(seed['finished'])}",
        f"  replisync   {'running' if fields['running'] else 'not running'}",
    ]
    if fields["next"]:
        lines.append(f"  next        {fields['next']}")
    if run:
        lines.append(
            f"  last run    {run['command']}: {run['outcome']}, serial {run['from_serial']} to "
            f"{known(run['to_serial'])}, {run['files']} files, finished {known(run['finished'])}"
        )
    if verified := fields["last_verify"]:
        lines.append(
            f"  verified    {verified['level']}: {verified['outcome']} at serial {verified['serial']}, "
            f"{verified['findings']} findings, finished {verified['finished']}"
        )
    if fields["divergence"]:
        fork = fields["divergence"]["fork_serial"]
        agree = "nowhere, as far as is known" if fork is None else f"up to serial {fork}"
        lines.append(f"  diverged    found {fields['divergence']['found_at']}, the histories agree {agree}")
    if fields["error"]:
        lines.append(f"  error       {printable(fields['error'])}")
    return lines


@click.command()
@serverdir_option
@storage_option
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Go on although the primary has more, files are missing, or findings of verify stand.",
)
@click.option(
    "--keep-identity", is_flag=True, help="Take the primary's UUID: its other replicas then go on here."
)
@click.option(
    "--replay-events", is_flag=True, help="Let devpi-server's plugins see all of the history again."
)
@dry_run_option
@tls_options
@json_option
@click.pass_obj
def promote(log: Any, /, serverdir: Path, storage: str | None, json: bool, **choices: Any) -> None:
    """Make the standby startable as primary, after checking that it is complete."""
    # Its stages take a moment each: no display, and a signal ends it as it always did.
    context = Context(Stop(), log, Lines(log))
    done = run_promote(target(serverdir, storage), context, tls=tls(choices), **choices)
    done = replace(done, warnings=tuple(addressed(warning, serverdir) for warning in done.warnings))
    if json:
        _print(asdict(done))
        return
    would = "would be" if done.dry_run else "is"
    click.echo(f"{done.serverdir} {would} a primary at serial {done.serial}, with UUID {done.uuid}")
    if done.lost_serials or done.missing_files:
        click.echo(f"given up: {done.lost_serials} serials, {done.missing_files} files")
    if done.deleted_files:
        click.echo(
            f"{done.deleted_files} files that the primary deleted stay in place, where no index names them"
        )
    for warning in done.warnings:
        click.echo(f"warning: {printable(warning)}")
    for found in done.found:
        click.echo(f"given up: {printable(found)}")
    if done.unreachable:
        heard = f"; it was last heard of at {done.last_contact}" if done.last_contact else ""
        click.echo(f"the old primary does not answer: {printable(done.unreachable)}{heard}")
        click.echo("what it accepted after that is unknown, and would be lost")
    if done.reachable:
        click.echo("the old primary still answers: see to it that nobody writes to it any more")
    if not done.dry_run:
        words = f"devpi-server --serverdir {quoted(done.serverdir)} --role primary --secretfile F"
        if done.storage != "sqlite":
            words += f" --storage {quoted(f'{done.storage},password=..')}"
        click.echo(f"start it: {words}")


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
        _print(asdict(done))
        return
    if not done.entries:
        click.echo(f"{done.serverdir} is at serial {done.to_serial} already")
        return
    would = "would go" if done.dry_run else "went"
    click.echo(
        f"{done.serverdir} {would} back from serial {done.from_serial} to {done.to_serial}: {done.restored} "
        f"files come back, {done.fetched} from the primary, {done.put_aside} are put aside"
    )
    if done.missing:
        listed = addressed("`replisync faults list`", serverdir)
        click.echo(
            f"{done.missing} files could not be had: the primary deleted them later, or {listed} has them"
        )
    if not done.dry_run:
        click.echo("start a devpi-server again that was running on it: it remembers what it has read")


@click.group()
def faults() -> None:
    """Files that could not be had: list them, try again, or go on without."""


@faults.command("list")
@serverdir_option
@storage_option
@json_option
def faults_list(serverdir: Path, storage: str | None, json: bool) -> None:
    """List the files that could not be had, and why."""
    found = list_faults(target(serverdir, storage))
    if json:
        _print([asdict(fault) for fault in found])
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
    """Have the next catchup, or a running follow, ask for all of them again."""
    click.echo(f"{retry_faults(target(serverdir, storage))} files will be asked for again")


@faults.command("skip")
@serverdir_option
@storage_option
@click.argument("relpath")
def faults_skip(serverdir: Path, storage: str | None, relpath: str) -> None:
    """Let the standby go on without RELPATH, which holds its serial back."""
    skip_fault(target(serverdir, storage), relpath)
    click.echo(f"{relpath} no longer holds the serial back")


@faults.command("clear")
@serverdir_option
@storage_option
def faults_clear(serverdir: Path, storage: str | None) -> None:
    """Forget the list; what is still missing comes back with its next try."""
    click.echo(f"{clear_faults(target(serverdir, storage))} faults forgotten")


@click.command("derive-key")
@secretfile_option
@click.option("--output", type=PATH, required=True, metavar="F", help="Where to write it (0600).")
@cost_options
def derive_key(secretfile: Path | None, output: Path, **values: Any) -> None:
    """Write the key that only replication needs, derived from the server's secret."""
    if secretfile is None:
        raise UsageError("reading of the secret", "--secretfile is not given")
    check_place(output)  # before the work
    write_key(output, derive(read_secret(secretfile), key_cost(values)))
    click.echo(f"{output} opens the changelog of servers with this secret, and nothing else")


ALL = (status, promote, rewind, faults, derive_key)
