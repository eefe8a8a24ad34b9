"""The command that proves a standby, and mends it."""

import json as jsonlib
from pathlib import Path
from typing import Any

import click

from replisync.cli.options import json_option, serverdir_option, storage_option, target, watched
from replisync.errors import VerificationFailed
from replisync.verify.findings import LISTED, Finding, Report
from replisync.verify.run import Level
from replisync.verify.run import verify as run_verify

_LEVELS = ("quick", "files", "full")


@click.command()
@serverdir_option
@storage_option
@click.option(
    "--level",
    type=click.Choice(_LEVELS),
    default="full",
    show_default=True,
    help="How much is looked at; each includes those before.",
)
@json_option
@click.pass_obj
def verify(log: Any, /, serverdir: Path, storage: str | None, level: str, json: bool) -> None:
    """Look whether the standby is what it should be; `follow` may go on meanwhile."""
    with watched(log) as context:
        report = run_verify(target(serverdir, storage), Level.of(level), context)
    if not json:
        click.echo("\n".join(_lines(serverdir, report)))
    if report.total:
        error = VerificationFailed(
            f"verification of {serverdir}",
            f"{report.total} findings remain",
            serial=report.serial,
            hint=_hint(report),
        )
        error.details = report.fields()
        raise error
    if json:
        click.echo(jsonlib.dumps(report.fields(), indent=2, ensure_ascii=False))


def _hint(report: Report) -> str:
    remedies = list(dict.fromkeys(one.remedy for one in report.findings if one.remedy))
    return "; ".join(remedies[:3]) or VerificationFailed.default_hint


def _lines(serverdir: Path, report: Report) -> list[str]:
    lines = [_line(one) for one in report.findings]
    if report.total > LISTED:
        lines.append(f"and {report.total - LISTED} more")
    checked = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in report.checked.items() if count
    )
    known = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.known.items() if count)
    lines.append(
        f"{serverdir}: {report.outcome} at serial {report.serial}, level {report.level}, {report.seconds} s"
    )
    lines.append(f"  looked at   {checked}")
    if known:
        lines.append(f"  not here    {known}, as is known")
    return lines


def _line(one: Finding) -> str:
    at = "" if one.serial is None else f" at serial {one.serial}"
    remedy = f" ({one.remedy})" if one.remedy else ""
    return f"{one.kind}  {one.subject}{at}: {one.expected} expected, found {one.found}{remedy}"


ALL = (verify,)
