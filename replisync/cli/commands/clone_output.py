"""Output of `clone`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from replisync.errors import Advice
from replisync.operations import Reseeded
from replisync.seed import Cloned, Forecast


def show_result(serverdir: Path, done: Cloned, *, as_json: bool) -> None:
    """Print the result of a clone."""
    if as_json:
        fields = {
            "serverdir": str(serverdir),
            "role": done.role,
            "serial": done.serial,
            "files_total": done.files.total,
            "files_missing": done.files.missing,
            "local": done.local,
            "faults": done.faults,
            "export_reason": done.export_reason,
            "users_without_password": done.passwordless,
        }
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))
        return
    what = "standby" if done.role == "replica" else "standalone server"
    click.echo(
        f"{serverdir} is a {what} at serial {done.serial}, with {done.files.total - done.files.missing} of "
        f"{done.files.total} files"
        + (f", {done.local} of them from this machine" if done.local else "")
        + (f", {done.faults} missing (see {Advice('faults list')})" if done.faults else "")
    )
    _tell_export(done)


def show_reseeded(serverdir: Path, done: Reseeded, *, as_json: bool) -> None:
    """Print the result of --reseed."""
    reason = None if done.cloned is None else done.cloned.export_reason
    if as_json:
        fields = {
            "serverdir": str(serverdir),
            "role": "replica",
            "serial": done.serial,
            "kept": str(done.kept),
            "left": done.left,
            "export_reason": reason,
            "users_without_password": None if done.cloned is None else done.cloned.passwordless,
        }
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))
        return
    click.echo(
        f"{serverdir} is a new standby at serial {done.serial}; the old one is {done.kept}: remove it "
        "when you no longer need it"
    )
    if done.cloned is not None:
        _tell_export(done.cloned)
    if done.left:
        click.echo(f"These files of yours are only in the old one: {', '.join(done.left)}")
    click.echo("Restart a devpi-server that serves this standby")


def _tell_export(done: Cloned) -> None:
    if done.export_reason is not None:
        click.echo(
            f"It was seeded from an export ({done.export_reason}): without earlier history, and with the "
            "settings of mirrors only"
        )
    if done.passwordless:
        click.echo(
            f"Users without a password, as in the dump: {done.passwordless}. Only an authentication "
            "plugin of devpi-server can log them in (such as LDAP)"
            + ("; set passwords with devpi-passwd" if done.role != "replica" else "")
        )


def show_forecast(found: Forecast, *, as_json: bool) -> None:
    """Print the result of --plan."""
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    what = "standby" if found.role == "replica" else "standalone server"
    lines = [f"{found.serverdir} would be a {what}, seeded from {found.source}; nothing was written"]
    if found.serials is None:
        lines.append("  serials     assigned by devpi-import")
    else:
        span = f", {found.from_serial} to {found.to_serial}" if found.serials else ""
        remote = found.serials - found.local_serials
        lines.append(
            f"  serials     {found.serials}{span}; {remote} from the primary, {_size(found.history_bytes)}"
        )
    here = f"; {found.here} more are in place" if found.here else ""
    lines.append(f"  files       {found.files}, {_size(found.bytes)}{here}")
    lines.append(f"  local       {found.local}, {_size(found.local_bytes)}")
    lines += [f"                {number} in {folder}" for folder, number in found.folders.items()]
    if found.role == "replica":
        fetched = found.files - found.local - found.unknown_sizes
        unknown = f"; {found.unknown_sizes} more of unknown size" if found.unknown_sizes else ""
        lines.append(f"  fetched     {fetched}, {_size(found.bytes - found.local_bytes)}{unknown}")
    if found.missing:
        lines.append(f"  missing     {found.missing}, found nowhere")
    click.echo("\n".join(lines))


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number} bytes"
