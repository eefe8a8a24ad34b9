"""Options that several commands have, named as devpi-server names them where it has them."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from replisync.cli.arguments import hide
from replisync.cli.progress import shown
from replisync.devpi.storage import Storage
from replisync.devpi.tokens import KeyCost
from replisync.errors import UsageError
from replisync.primary.access import Access
from replisync.primary.tls import Tls
from replisync.replication.context import Context
from replisync.seed.export.tools import ToolOptions
from replisync.session.settings import Settings
from replisync.standby.serverdir import Serverdir
from replisync.system.advice import quoted
from replisync.system.stop import Stop

F = TypeVar("F", bound=Callable[..., Any])

# Whether a path may be read is our business: click calls all trouble with one a mistake of the command line.
PATH = click.Path(path_type=Path, readable=False)
_MIB = 1024 * 1024


def _compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


# The standby that a command is about, as its user named it.
SERVERDIR = "replisync.standby.serverdir"

# What a message tells to run on the same standby.
_ADVISED = "catchup|status|verify|promote|rewind|faults|clone --reseed"
_ADVICE = re.compile(f"`replisync (?P<words>(?:{_ADVISED})(?: (?!--serverdir)[^` ]+)*)`")


def _note_serverdir(context: click.Context, _param: click.Parameter, value: Path) -> Path:
    context.meta[SERVERDIR] = value
    return value


serverdir_option = click.option(
    "--serverdir",
    type=PATH,
    required=True,
    metavar="DIR",
    callback=_note_serverdir,
    help="The standby's folder.",
)


def addressed(text: str, serverdir: Path | None) -> str:
    """Return a message in which the commands that it names can be run as they stand.

    serverdir: the standby that it is about.
    """
    if serverdir is None:
        return text
    option = f"--serverdir {quoted(serverdir)}"
    return _ADVICE.sub(lambda found: f"`replisync {found['words']} {option}`", text)


def cover_password(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Cover the password of a storage in the list of processes."""
    for password in re.findall("password=[^,]*", value or ""):
        hide(password)
    return value


storage_option = click.option(
    "--storage",
    metavar="SPEC",
    callback=cover_password,
    help="The database's password, as pg8000:password=.., unless PGPASSWORD has it; or its new address.",
)


def target(serverdir: Path, storage: str | None) -> Serverdir:
    """Return the target that a command is about.

    Raises UsageError where `storage` is not devpi-server's spelling of one, or the folder has no name that
    can be shown.
    """
    try:
        str(serverdir).encode()
    except UnicodeEncodeError as err:
        raise UsageError("cannot use --serverdir", "its name is not UTF-8", hint="rename the folder") from err
    given = Storage.parse(storage) if storage else None
    # PGPASSWORD is what PostgreSQL's own programs take too.
    return Serverdir(serverdir, given, password=os.environ.get("PGPASSWORD"))


@contextmanager
def watched(log: Any) -> Iterator[Context]:
    """Show progress, and let signals end the work."""
    stop = Stop()
    with shown(log) as progress, stop.on_signals():
        yield Context(stop, log, progress)


# Errors are printed as JSON too where this is set, whether by flag, environment or file.
WANTS_JSON = "replisync.json"


def _note_json(context: click.Context, _param: click.Parameter, value: bool) -> bool:
    context.meta[WANTS_JSON] = value
    return value


json_option = click.option(
    "--json", "json", is_flag=True, is_eager=True, callback=_note_json, help="Print the result as JSON."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")

# For servers that were started with devpi-server's own hidden options of these names.
cost_options = _compose(
    click.option("--argon2-memory-cost", type=int, default=KeyCost().memory, hidden=True),
    click.option("--argon2-parallelism", type=int, default=KeyCost().parallelism, hidden=True),
    click.option("--argon2-time-cost", type=int, default=KeyCost().time, hidden=True),
)

secretfile_option = click.option(
    "--secretfile", type=PATH, metavar="F", help="The primary's secret file, mode 0600."
)

secret_options = _compose(
    secretfile_option,
    click.option(
        "--replica-keyfile",
        type=PATH,
        metavar="F",
        help="A file that `derive-key` wrote: quicker than --secretfile, and opens the changelog alone.",
    ),
    cost_options,
)

tls_options = _compose(
    click.option(
        "--ca-bundle",
        type=PATH,
        metavar="FILE",
        help="Trust the CAs in this PEM file, and no others, for the primary's certificate.",
    ),
    click.option(
        "--replica-cert",
        type=PATH,
        metavar="FILE",
        help="A PEM file, mode 0600, with a certificate and its key to show to the primary.",
    ),
)

patience_option = click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=Settings().patience,
    show_default=True,
    metavar="SECONDS",
    help="Retry transient failures for up to SECONDS without progress.",
)

_download_options = _compose(
    click.option(
        "--file-replication-threads",
        type=click.IntRange(1, 64),
        default=Access().threads,
        show_default=True,
        metavar="N",
        help="Downloads at a time.",
    ),
    click.option(
        "--file-replication-skip-indexes",
        default="",
        metavar="NAMES",
        help="Comma-separated indexes, types of indexes, or 'all', whose files are not fetched.",
    ),
)

_limit_options = _compose(
    click.option(
        "--retention",
        type=click.FloatRange(0),
        default=Settings().retention_days,
        show_default=True,
        metavar="DAYS",
        help="How long files that the primary deletes or replaces are kept aside; 0 keeps none.",
    ),
    click.option(
        "--request-timeout",
        type=click.FloatRange(0, min_open=True),
        default=Access().silence,
        show_default=True,
        metavar="SECONDS",
        help="Give a request up after SECONDS without a byte.",
    ),
    click.option(
        "--max-entry-size",
        type=click.IntRange(1, 900),
        default=Access().entry_bytes // _MIB,
        show_default=True,
        metavar="MIB",
        help="Take no changelog entry that is longer.",
    ),
)

# Of the commands that bring files from the primary, and of those that look for them on this machine before.
transfer_options = _compose(_download_options, _limit_options)
file_options = _compose(
    _download_options,
    click.option(
        "--replica-file-search-path",
        type=PATH,
        multiple=True,
        metavar="DIR",
        help="Take files from here by digest: a serverdir, its +files, or an export dump. May be repeated.",
    ),
    click.option(
        "--hard-links", is_flag=True, help="Link files that are found on this machine, instead of copying."
    ),
    _limit_options,
)


def _covered(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value:
        hide(value)
    return value


# Those of devpi-export and devpi-import that are passed on to them.
tool_options = _compose(
    click.option(
        "--include-mirrored-files/--no-include-mirrored-files",
        default=None,
        help="With --seed export, without --primary-url: export the files that mirrors have, too.",
    ),
    click.option("--no-root-pypi", is_flag=True, help="With an export: leave the mirror root/pypi out."),
    click.option(
        "--root-passwd",
        metavar="PASSWORD",
        callback=_covered,
        help="With an export, without --primary-url: for a user root who has no password there.",
    ),
    click.option(
        "--root-passwd-hash", metavar="HASH", callback=_covered, help="The same, as a hash of devpi."
    ),
    click.option(
        "--skip-import-type",
        multiple=True,
        metavar="TYPE",
        help="With an export, without --primary-url: leave indexes of this type out. May be repeated.",
    ),
    click.option(
        "--no-events", is_flag=True, help="With an export: leave events to the first start of the server."
    ),
)


def tools(values: dict[str, Any]) -> ToolOptions:
    """Take what devpi's tools are to be given out of a command's values.

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
            raise UsageError(f"cannot use --{name}", "it is not UTF-8") from None
    return options


def settings(values: dict[str, Any]) -> Settings:
    """Take the values of the options above out of a command's values, as settings."""
    names = values.pop("file_replication_skip_indexes", "")
    access = Access(
        secretfile=values.pop("secretfile", None),
        keyfile=values.pop("replica_keyfile", None),
        cost=key_cost(values),
        tls=tls(values),
        threads=values.pop("file_replication_threads", Access().threads),
        silence=values.pop("request_timeout", Access().silence),
        entry_bytes=values.pop("max_entry_size", Access().entry_bytes // _MIB) * _MIB,
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
    """Take what TLS is to use out of a command's values."""
    return Tls(values.pop("ca_bundle", None), values.pop("replica_cert", None))


def key_cost(values: dict[str, Any]) -> KeyCost:
    """Take the cost of the key derivation out of a command's values."""
    return KeyCost(
        values.pop("argon2_memory_cost"), values.pop("argon2_parallelism"), values.pop("argon2_time_cost")
    )
