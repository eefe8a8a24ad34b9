"""`replisync status`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.logs import printable
from replisync.cli.options import (
    json_option,
    serverdir_option,
    storage_option,
    target,
    tls,
    tls_options,
)
from replisync.cli.output import age, duration, print_json
from replisync.cli.parameters import Duration
from replisync.errors import ConditionFailed
from replisync.monitoring import check_lag
from replisync.monitoring import status as run_status


@command(
    short="Show state and lag",
    example="status --serverdir DIR",
)
@serverdir_option
@storage_option
@json_option
@click.option("--offline", is_flag=True, help="Do not ask the primary.")
@click.option(
    "--max-lag-serials", type=click.IntRange(0), metavar="N", help="Exit 9 if more than N serials behind."
)
@click.option(
    "--max-lag-seconds",
    type=Duration(),
    metavar="TIME",
    help="Exit 9 if it may be behind for longer than TIME, such as 5m.",
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
    """Show the state of the standby."""
    fields = run_status(target(serverdir, storage), offline=offline, tls=tls(values))
    if not json:
        click.echo("\n".join(_status_lines(fields)))
    try:
        check_lag(fields, max_lag_serials, max_lag_seconds)
    except ConditionFailed as err:
        err.details = fields
        raise
    if json:
        print_json(fields)


def _status_lines(fields: dict[str, Any]) -> list[str]:
    seed = fields["seed"]
    present = fields["files_total"] - fields["files_missing"]
    lines = [
        _headline(fields),
        *([f"  next        {fields['next']}"] if fields["next"] else []),
        f"  serial      {fields['serial']}{_lag(fields)}",
        f"  primary     {_known(fields['primary_url'])} ({fields['primary_uuid']})",
        *(
            f"  lineage     {one['uuid']} from serial {one['from_serial']} on, since {one['since']}"
            for one in fields["lineage"][1:]
        ),
        f"  last heard  {_when(fields['last_contact'])}",
        f"  files       {present} of {fields['files_total']} here, {fields['faults']} faults",
        f"  seed        {seed['kind']} at serial {_known(seed['serial'])}, "
        f"finished {_when(seed['finished'])}",
        f"  replisync   {'running' if fields['running'] else 'not running'}",
    ]
    if run := fields["last_run"]:
        lines.append(f"  last run    {_run(run)}")
    if verified := fields["last_verify"]:
        lines.append(
            f"  verified    {verified['level']}: {verified['outcome']} at serial {verified['serial']}, "
            f"{verified['findings']} findings, finished {_when(verified['finished'])}"
        )
    if fields["divergence"]:
        fork = fields["divergence"]["fork_serial"]
        agree = "at no known serial" if fork is None else f"up to serial {fork}"
        lines.append(
            f"  diverged    found {_when(fields['divergence']['found_at'])}, the histories agree {agree}"
        )
    if fields["error"]:
        lines.append(f"  error       {printable(fields['error'])}")
    return lines


def _headline(fields: dict[str, Any]) -> str:
    """Return the state, since when, and why."""
    since = {"stale": "last heard", "behind": "last in sync"}.get(fields["state"], "since")
    at = f" ({since} {age(fields['since'])})" if fields["since"] else ""
    why = f" - {printable(fields['reason'])}" if fields["reason"] else ""
    return f"{fields['serverdir']}: {fields['state']}{at}{why}"


def _lag(fields: dict[str, Any]) -> str:
    if fields["state"] == "promoted":
        return ""
    primary, serials, seconds = fields["primary_serial"], fields["lag_serials"], fields["lag_seconds"]
    if primary is None:
        return ", that of the primary is unknown"
    if fields["state"] == "stale":
        # The primary may have accepted more since then.
        return f", primary {primary} when last heard, behind by {serials} serials or more"
    at_most = f", at most {duration(seconds)}" if seconds else ""
    return f", primary {primary}" + (f", behind by {serials} serials{at_most}" if serials is not None else "")


def _run(run: dict[str, Any]) -> str:
    before, to = run["from_serial"], run["to_serial"]
    work = "" if to is None else f", {max(0, to - before)} serials up to {to}, {run['files']} files"
    finished = f", finished {_when(run['finished'])}" if run["finished"] else ""
    return f"{run['command']}: {run['outcome']}{work}{finished}"


def _known(value: Any) -> str:
    return "unknown" if value is None else f"{value}"


def _when(moment: str | None) -> str:
    return "unknown" if moment is None else f"{moment} ({age(moment)})"
