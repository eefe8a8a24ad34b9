"""Options that several commands share; named as in devpi-server where it has them."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from replisync.cli.advice import GIVEN
from replisync.cli.arguments import hide
from replisync.cli.parameters import PATH, Duration, Size
from replisync.cli.progress import shown
from replisync.devpi import KeyCost, Storage
from replisync.errors import UsageError
from replisync.primary import Access, Tls
from replisync.replication import Context
from replisync.seed import ToolOptions
from replisync.session import Settings
from replisync.standby import Serverdir
from replisync.system import Stop

F = TypeVar("F", bound=Callable[..., Any])

_MIB = 1024 * 1024


def _compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _note(context: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Note the value for commands in messages."""
    if value is not None and param.name is not None:
        context.meta.setdefault(GIVEN, {})[param.name] = value
    return value


serverdir_option = click.option(
    "--serverdir",
    type=PATH,
    required=True,
    metavar="DIR",
    callback=_note,
    help="The standby's folder.",
)


def cover_password(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Hide the password of --storage in the process list."""
    for password in re.findall("password=[^,]*", value or ""):
        hide(password)
    return value


storage_option = click.option(
    "--storage",
    metavar="SPEC",
    callback=cover_password,
    help="The database's password, as pg8000:password=.. (or set PGPASSWORD), or its new address.",
)


def target(serverdir: Path, storage: str | None) -> Serverdir:
    """Return the target of a command.

    Raises UsageError if `storage` is not in devpi-server's format, or the folder's name is not UTF-8.
    """
    try:
        str(serverdir).encode()
    except UnicodeEncodeError as err:
        raise UsageError("cannot use --serverdir", "its name is not UTF-8", hint="rename the folder") from err
    given = Storage.parse(storage) if storage else None
    # As PostgreSQL's own programs do.
    return Serverdir(serverdir, given, password=os.environ.get("PGPASSWORD"))


@contextmanager
def watched(log: Any) -> Iterator[Context]:
    """Show progress, and stop on signals."""
    stop = Stop()
    form = click.get_current_context().find_root().params.get("log_format")
    with shown(log, bars=form != "json") as progress, stop.on_signals():
        yield Context(stop, log, progress)


# Key in click's meta: whether errors are printed as JSON too, as flag, environment or file say.
WANTS_JSON = "replisync.json"


def _note_json(context: click.Context, _param: click.Parameter, value: bool) -> bool:
    context.meta[WANTS_JSON] = value
    return value


json_option = click.option(
    "--json", "json", is_flag=True, is_eager=True, callback=_note_json, help="Print the result as JSON."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")

# For servers started with devpi-server's hidden options of the same names.
cost_options = _compose(
    click.option("--argon2-memory-cost", type=int, default=KeyCost().memory, hidden=True),
    click.option("--argon2-parallelism", type=int, default=KeyCost().parallelism, hidden=True),
    click.option("--argon2-time-cost", type=int, default=KeyCost().time, hidden=True),
)

secretfile_option = click.option(
    "--secretfile",
    type=PATH,
    metavar="F",
    callback=_note,
    help="The primary's secret file, mode 0600.",
)

secret_options = _compose(
    secretfile_option,
    click.option(
        "--replica-keyfile",
        type=PATH,
        metavar="F",
        callback=_note,
        help="A key from `derive-key`: faster than --secretfile, and valid for the changelog only.",
    ),
    cost_options,
)

tls_options = _compose(
    click.option(
        "--ca-bundle",
        type=PATH,
        metavar="FILE",
        callback=_note,
        help="Trust only the CAs in this PEM file for the primary's certificate.",
    ),
    click.option(
        "--replica-cert",
        type=PATH,
        metavar="FILE",
        callback=_note,
        help="A PEM file, mode 0600, with the client certificate and key to present to the primary.",
    ),
)

patience_option = click.option(
    "--patience",
    type=Duration(positive=True),
    default=f"{Settings().patience:g}s",
    show_default=True,
    metavar="TIME",
    help="Retry transient failures for up to TIME without progress, such as 90s or 5m.",
)

_download_options = _compose(
    click.option(
        "--file-replication-threads",
        type=click.IntRange(1, 64),
        default=Access().threads,
        show_default=True,
        metavar="N",
        help="Number of parallel downloads.",
    ),
    click.option(
        "--file-replication-skip-indexes",
        default="",
        metavar="NAMES",
        help="Skip the files of these comma-separated indexes or index types, or 'all'.",
    ),
)

_limit_options = _compose(
    click.option(
        "--retention",
        type=Duration("d"),
        default=f"{Settings().retention_days:g}d",
        show_default=True,
        metavar="TIME",
        help="Retain files that the primary deletes or replaces for TIME, such as 30d; 0 retains none.",
    ),
    click.option(
        "--request-timeout",
        type=Duration(positive=True),
        default=f"{Access().silence:g}s",
        show_default=True,
        metavar="TIME",
        help="Abort a request after TIME without a byte.",
    ),
    click.option(
        "--max-entry-size",
        type=Size(_MIB, 900 * _MIB),
        default=f"{Access().entry_bytes // _MIB}M",
        show_default=True,
        metavar="SIZE",
        help="Reject changelog entries larger than this, such as 64M.",
    ),
)

# transfer_options: for commands that download files; file_options: for those that also search this machine.
transfer_options = _compose(_download_options, _limit_options)
file_options = _compose(
    _download_options,
    click.option(
        "--replica-file-search-path",
        type=PATH,
        multiple=True,
        metavar="DIR",
        help="Take files with matching digests from a serverdir, its +files, or an export dump. Repeatable.",
    ),
    click.option(
        "--hard-links", is_flag=True, help="Hard-link files found on this machine instead of copying them."
    ),
    _limit_options,
)


def _covered(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value:
        hide(value)
    return value


# Passed on to devpi-export and devpi-import.
tool_options = _compose(
    click.option(
        "--include-mirrored-files/--no-include-mirrored-files",
        default=None,
        help="With --seed export, without --primary-url: include files of mirrors in the export.",
    ),
    click.option("--no-root-pypi", is_flag=True, help="With an export: omit the mirror root/pypi."),
    click.option(
        "--root-passwd",
        metavar="PASSWORD",
        callback=_covered,
        help="With an export, without --primary-url: password for root if it has none there.",
    ),
    click.option(
        "--root-passwd-hash", metavar="HASH", callback=_covered, help="The same, as a devpi password hash."
    ),
    click.option(
        "--skip-import-type",
        multiple=True,
        metavar="TYPE",
        help="With an export, without --primary-url: omit indexes of this type. Repeatable.",
    ),
    click.option(
        "--no-events",
        is_flag=True,
        help="With an export: leave event processing to the server's first start.",
    ),
)


def tools(values: dict[str, Any]) -> ToolOptions:
    """Pop the options of devpi's tools from a command's values.

    Raises UsageError.
    """
    names = ("no_root_pypi", "no_events", "root_passwd", "root_passwd_hash", "skip_import_type")
    options = ToolOptions(
        **{name: values.pop(name) for name in names},
        include_mirrored_files=values.pop("include_mirrored_files"),
    )
    for name, secret in options.secrets.items():
        try:
            secret.encode()
        except UnicodeEncodeError:
            raise UsageError(f"cannot use --{name}", "its value is not UTF-8") from None
    return options


def settings(values: dict[str, Any]) -> Settings:
    """Pop the options above from a command's values, as settings."""
    names = values.pop("file_replication_skip_indexes", "")
    access = Access(
        secretfile=values.pop("secretfile", None),
        keyfile=values.pop("replica_keyfile", None),
        cost=key_cost(values),
        tls=tls(values),
        threads=values.pop("file_replication_threads", Access().threads),
        silence=values.pop("request_timeout", Access().silence),
        entry_bytes=values.pop("max_entry_size", Access().entry_bytes),
    )
    return Settings(
        access,
        skip_indexes=frozenset(name.strip() for name in names.split(",") if name.strip()),
        retention_days=values.pop("retention", Settings().retention_days),
        patience=values.pop("patience", Settings().patience),
        search=values.pop("replica_file_search_path", ()),
        hard_links=values.pop("hard_links", False),
    )


def tls(values: dict[str, Any]) -> Tls:
    """Pop the TLS options from a command's values."""
    return Tls(values.pop("ca_bundle", None), values.pop("replica_cert", None))


def key_cost(values: dict[str, Any]) -> KeyCost:
    """Pop the cost of key derivation from a command's values."""
    return KeyCost(
        values.pop("argon2_memory_cost"), values.pop("argon2_parallelism"), values.pop("argon2_time_cost")
    )
