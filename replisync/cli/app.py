"""The entry point: configuration, logging, errors as one line and an exit code."""

import codecs
import contextlib
import io
import json
import os
import sys
import tomllib
from contextvars import copy_context
from pathlib import Path
from typing import Any, NoReturn

import click

from replisync import __version__
from replisync.cli.advice import GIVEN, teller
from replisync.cli.commands.catchup import catchup
from replisync.cli.commands.clone import clone
from replisync.cli.commands.derive_key import derive_key
from replisync.cli.commands.faults import faults
from replisync.cli.commands.follow import follow
from replisync.cli.commands.promote import promote
from replisync.cli.commands.rewind import rewind
from replisync.cli.commands.status import status
from replisync.cli.commands.verify import verify
from replisync.cli.logs import FORMATS, LEVELS, make_logger, printable
from replisync.cli.options import PATH, WANTS_JSON
from replisync.cli.output import print_json
from replisync.errors import Hint, LocalFailure, ReplisyncError, UsageError, telling
from replisync.system import trouble

LOGGER = "replisync.logger"


@click.group(context_settings={"auto_envvar_prefix": "REPLISYNC", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="replisync")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), help="Default: console on a terminal, else json.")
@click.option("-c", "--configfile", type=PATH, metavar="FILE", help="A TOML file with a table per command.")
@click.pass_context
def app(context: click.Context, log_level: str, log_format: str | None, configfile: Path | None) -> None:
    """Keep an always-current, promotable standby of a devpi-server."""
    if sys.getfilesystemencoding() != "utf-8":
        raise UsageError(
            "cannot start",
            f"file names would be encoded as {sys.getfilesystemencoding()}, not as UTF-8",
            hint="set LC_ALL=C.UTF-8 or PYTHONUTF8=1 in the environment",
        )
    telling.set(teller(app, context.meta.setdefault(GIVEN, {}), configfile))
    context.default_map = _read_config(configfile) if configfile else {}
    context.obj = context.meta[LOGGER] = make_logger(log_level, log_format)


for command in (clone, follow, catchup, status, verify, promote, rewind, faults, derive_key):
    app.add_command(command)


def _read_config(path: Path) -> dict[str, Any]:
    """Return the defaults from a TOML file, by command and option.

    Raises UsageError if it cannot be read, or names an unknown command or option.
    """
    attempted = f"cannot read the configuration {path}"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(attempted, err.strerror or str(err)) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise UsageError(attempted, str(err)) from err
    return _defaults(app, tables, attempted, "")


def _defaults(group: click.Group, tables: dict[str, Any], attempted: str, within: str) -> dict[str, Any]:
    """Return click's defaults for the commands of a group; an option in the group's table applies to all."""
    defaults: dict[str, Any] = {name: {} for name in group.commands}
    for name, table in tables.items():
        command = group.commands.get(name)
        if command is None or not isinstance(table, dict):
            takers = {known: _option(group.commands[known], name) for known in group.commands if within}
            if not any(takers.values()):
                what = (
                    f"`{within.strip()}` has no command or option" if within else "replisync has no command"
                )
                raise UsageError(attempted, f"{what} {name!r}")
            for known, found in takers.items():
                if found is not None:
                    defaults[known].setdefault(found.name, _plain(table, name, attempted, found))
        elif isinstance(command, click.Group):
            defaults[name] = _defaults(command, table, attempted, f"{within}{name} ")
        else:
            for option, value in table.items():
                parameter = _option(command, option)
                if parameter is None:
                    raise UsageError(attempted, f"`{within}{name}` has no option {option!r}")
                defaults[name][parameter.name] = _plain(value, option, attempted, parameter)
    return defaults


def _option(command: click.Command, name: str) -> click.Parameter | None:
    return next((p for p in command.params if f"--{name}" in p.opts), None)


def _plain(value: Any, option: str, attempted: str, parameter: click.Parameter) -> Any:
    """Return an option's value; a list stands for a comma-separated or repeated option."""
    several = getattr(parameter, "multiple", False)
    items = value if isinstance(value, list) else [value]
    is_path = isinstance(parameter.type, click.Path)
    if all(isinstance(item, str) and "\0" not in item for item in items):
        if several:
            return items
        if not (is_path and isinstance(value, list)):
            return ",".join(items)
    elif isinstance(value, int | float) and not is_path:
        return value
    raise UsageError(attempted, f"{option!r} must be a string, a number or a list of strings")


def main() -> NoReturn:
    """Run the command line of this process."""
    open_standard_streams()
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:
        # The reader of our output is gone, as in `replisync status | head -1`.
        code = 0
    give_up_unwritten()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    return copy_context().run(_run, arguments)


def _run(arguments: list[str]) -> int:
    meta: dict[str, Any] = {WANTS_JSON: "--json" in arguments}
    try:
        with app.make_context("replisync", list(arguments)) as context:
            try:
                app.invoke(context)
            finally:
                meta.update(context.meta)
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message(), err=True)
        return UsageError.exit_code
    except click.ClickException as err:
        return _fail(err.format_message(), UsageError.exit_code, UsageError.default_hint, meta)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 1, "", meta)
    except ReplisyncError as err:
        return _fail(str(err), err.exit_code, err.hint, {**meta, "details": err.details})
    except BrokenPipeError:
        raise
    except MemoryError:
        why = "cannot allocate memory: free some, or raise the limit (ulimit -v, MemoryMax)"
        return _fail(why, LocalFailure.exit_code, LocalFailure.default_hint, meta)
    except Exception as err:  # noqa: BLE001 - last resort: one line, an exit code, details in the log
        if failure := trouble(err, "cannot finish the run"):
            return _fail(str(failure), failure.exit_code, failure.hint, meta)
        meta.get(LOGGER, make_logger("info", None)).error("bug", exc_info=err)
        return _fail(f"{type(err).__name__}: {err}", 1, ReplisyncError.default_hint, meta)
    return 0


def _fail(message: str, code: int, hint: str | Hint, meta: dict[str, Any]) -> int:
    line, advice = printable(" ".join(message.split())), printable(str(hint))
    # The streams may have lost their reader; the exit code says enough.
    with contextlib.suppress(OSError):
        click.echo(f"replisync: {line}", err=True)
    if meta[WANTS_JSON]:
        fields = {**meta.get("details", {}), "error": line, "code": code, "hint": advice}
        with contextlib.suppress(OSError):
            print_json(fields)
    return code


def open_standard_streams() -> None:
    """Make the standard streams writable.

    Open those that the caller closed, so that no file of ours gets the number of a standard stream. Write
    characters that the encoding lacks as JSON escapes, since they may be part of JSON.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for the rest of the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    codecs.register_error("replisync.json", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replisync.json")


def _escaped(err: UnicodeError) -> tuple[str, int]:
    assert isinstance(err, UnicodeEncodeError)  # noqa: S101 - we only write
    return json.dumps(err.object[err.start : err.end])[1:-1], err.end


def give_up_unwritten() -> None:
    """Drop unwritten output: otherwise the interpreter retries it at exit, and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
