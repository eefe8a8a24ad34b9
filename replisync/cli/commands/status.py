"""`replisync status`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.logs import printable
from replisync.cli.options import (
    json_option,
    serverdir_option,
    storage_option,
    target,
    tls,
    tls_options,
)
from replisync.cli.output import print_json
from replisync.errors import ConditionFailed
from replisync.monitoring import check_lag
from replisync.monitoring import status as run_status


@click.command()
@serverdir_option
@storage_option
@json_option
@click.option("--offline", is_flag=True, help="Do not ask the primary.")
@click.option(
    "--max-lag-serials", type=click.IntRange(0), metavar="N", help="Exit 9 if more than N serials behind."
)
@click.option(
    "--max-lag-seconds", type=click.FloatRange(0), metavar="S", help="Exit 9 if more than S seconds behind."
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
    def known(value: Any, unit: str = "") -> str:
        return "unknown" if value is None else f"{value}{unit}"

    seed, run = fields["seed"], fields["last_run"]
    present = fields["files_total"] - fields["files_missing"]
    lag = f"{known(fields['lag_serials'], ' serials')}, {known(fields['lag_seconds'], ' s')}"
    if fields["state"] == "stale":
        # The primary may have accepted more since then.
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
        agree = "at no known serial" if fork is None else f"up to serial {fork}"
        lines.append(f"  diverged    found {fields['divergence']['found_at']}, the histories agree {agree}")
    if fields["error"]:
        lines.append(f"  error       {printable(fields['error'])}")
    return lines
