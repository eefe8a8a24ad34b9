"""`replisync verify`."""

from pathlib import Path
from typing import Any

import click

from replisync.cli.command import command
from replisync.cli.logs import printable
from replisync.cli.options import (
    file_options,
    json_option,
    patience_option,
    secret_options,
    serverdir_option,
    settings,
    storage_option,
    target,
    tls_options,
    watched,
)
from replisync.cli.output import print_json
from replisync.errors import Advice, Hint, VerificationFailed
from replisync.verify import LISTED, Finding, Level, Report
from replisync.verify import owner as access
from replisync.verify import repair as run_repair
from replisync.verify import verify as run_verify


@command(
    short="Check the standby, or repair it",
    example="verify --serverdir DIR --level full",
)
@serverdir_option
@storage_option
@click.option(
    "--level",
    type=click.Choice([str(level) for level in Level]),
    default=str(Level.FULL),
    show_default=True,
    help="How much is checked; each level includes the lower ones.",
)
@click.option("--repair", is_flag=True, help="Repair what can be repaired; `follow` must not be running.")
@secret_options
@tls_options
@file_options
@patience_option
@json_option
@click.pass_obj
def verify(
    log: Any,
    /,
    serverdir: Path,
    storage: str | None,
    level: str,
    repair: bool,
    json: bool,
    **values: Any,
) -> None:
    """Check the standby for damage, or repair it.

    Checking is safe while `follow` runs.
    """
    with watched(log) as context:
        where, how = target(serverdir, storage), settings(values)
        if repair:
            report = run_repair(where, Level.of(level), how, context)
        else:
            report = run_verify(where, Level.of(level), context, how)
    if not json:
        click.echo("\n".join(_lines(serverdir, report)))
    if report.total:
        error = VerificationFailed(
            f"cannot verify {serverdir}",
            f"{report.total} findings remain",
            serial=report.serial,
            hint=_hint(report, repair=repair),
        )
        error.details = report.fields()
        raise error
    if json:
        print_json(report.fields())


def _hint(report: Report, *, repair: bool) -> str | Hint:
    remedies = list(dict.fromkeys(str(one.remedy) for one in report.findings if one.remedy))
    for_root = all(one.remedy is access.REMEDY for one in report.findings)
    if not repair and not for_root:
        # Findings of this level need the primary to be found again.
        level = {"level": report.level} if report.level == str(Level.PRIMARY) else {}
        return Hint("repair it with {}", Advice("verify", **level, repair=True))
    return "; ".join(remedies[:3]) or "clone into an empty serverdir"


def _lines(serverdir: Path, report: Report) -> list[str]:
    lines = [f"repaired  {_line(one)}" for one in report.repairs]
    lines += [_line(one) for one in report.findings]
    lines += [
        printable(f"note    {one.kind}  {one.subject}{_at(one.serial)}: {one.note}") for one in report.notes
    ]
    if report.total > LISTED:
        lines.append(f"and {report.total - LISTED} more")
    checked = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in report.checked.items() if count
    )
    known = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.known.items() if count)
    lines.append(
        f"{serverdir}: {report.outcome} at serial {report.serial}, level {report.level}, {report.seconds} s"
    )
    lines.append(f"  checked     {checked}")
    if known:
        lines.append(f"  missing     {known} (known)")
    return lines


def _line(one: Finding) -> str:
    remedy = f" ({one.remedy})" if one.remedy else ""
    # Names and contents of rows are untrusted.
    return printable(
        f"{one.kind}  {one.subject}{_at(one.serial)}: {one.expected} expected, found {one.found}{remedy}"
    )


def _at(serial: int | None) -> str:
    return "" if serial is None else f" at serial {serial}"
