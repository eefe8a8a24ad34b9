"""The entry point: configuration, logging, errors as one line and an exit code."""

import codecs
import contextlib
import io
import json
import os
import sys
from contextvars import copy_context
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from click.shell_completion import shell_complete

from replisync import __version__
from replisync.cli.advice import GIVEN, teller
from replisync.cli.command import LATE, Group
from replisync.cli.commands.catchup import catchup
from replisync.cli.commands.clone import clone
from replisync.cli.commands.completion import COMPLETE, completion
from replisync.cli.commands.derive_key import derive_key
from replisync.cli.commands.faults import faults
from replisync.cli.commands.follow import follow
from replisync.cli.commands.promote import promote
from replisync.cli.commands.rewind import rewind
from replisync.cli.commands.status import status
from replisync.cli.commands.verify import verify
from replisync.cli.configuration import name_variables, read_config
from replisync.cli.logs import FORMATS, LEVELS, make_logger, printable
from replisync.cli.options import WANTS_JSON
from replisync.cli.output import print_json
from replisync.cli.parameters import PATH
from replisync.errors import Hint, LocalFailure, ReplisyncError, UsageError, telling
from replisync.system import trouble

LOGGER = "replisync.logger"


@click.group(
    cls=Group, context_settings={"auto_envvar_prefix": "REPLISYNC", "help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="replisync")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), help="Default: console on a terminal, else json.")
@click.option("-c", "--configfile", type=PATH, metavar="FILE", help="A TOML file with a table per command.")
@click.pass_context
def app(context: click.Context, /, configfile: Path | None, **_own: object) -> None:
    """Keep an always-current, promotable standby of a devpi-server."""
    if sys.getfilesystemencoding() != "utf-8":
        raise UsageError(
            "cannot start",
            f"file names would be encoded as {sys.getfilesystemencoding()}, not as UTF-8",
            hint="set LC_ALL=C.UTF-8 or PYTHONUTF8=1 in the environment",
        )
    context.meta[LATE] = _apply
    _use_config(context, configfile)


for each in (clone, follow, catchup, status, verify, promote, rewind, faults, derive_key, completion):
    app.add_command(each)
name_variables(app)


def _use_config(context: click.Context, path: Path | None) -> None:
    """Take the defaults of a configuration file for the command of a context."""
    root = context.find_root()
    telling.set(teller(app, root.meta.setdefault(GIVEN, {}), path))
    defaults, own = read_config(app, path) if path else ({}, {})
    root.default_map = defaults
    words = context.command_path.split()[1:]
    for word in words:
        defaults = defaults.get(word, {})
    context.default_map = defaults
    for name, value in own.items():
        key = name.replace("-", "_")
        if root.get_parameter_source(key) is ParameterSource.DEFAULT:
            root.params[key] = value
    _use_logger(context)


def _use_logger(context: click.Context) -> None:
    root = context.find_root()
    context.obj = root.obj = root.meta[LOGGER] = make_logger(
        root.params["log_level"], root.params["log_format"]
    )


def _apply(context: click.Context, name: str, value: Any) -> None:
    """Apply an option of replisync itself that stands behind the command; see command.LATE."""
    root = context.find_root()
    if name == "configfile":
        _use_config(context, value)
    else:
        root.params[name] = value
        root.set_parameter_source(name, ParameterSource.COMMANDLINE)
        _use_logger(context)


def main() -> NoReturn:
    """Run the command line of this process."""
    open_standard_streams()
    if asked := os.environ.get(COMPLETE):
        sys.exit(shell_complete(app, {}, "replisync", COMPLETE, asked))
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
        path = getattr(getattr(err, "ctx", None), "command_path", "replisync")
        return _fail(err.format_message(), UsageError.exit_code, f"see `{path} --help`", meta)
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
