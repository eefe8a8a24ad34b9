"""Commands with grouped help, and with the options that may also stand before a command."""

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from replisync.cli.logs import FORMATS, LEVELS
from replisync.cli.parameters import PATH
from replisync.errors import UsageError

_DOCS = "https://github.com/devpi-replisync/devpi-replisync/tree/main/docs"

# The sections of `--help`, each with its options; all other options come first.
_SECTIONS = {
    "Secret and TLS": "secretfile replica_keyfile ca_bundle replica_cert",
    "Files": "replica_file_search_path hard_links file_replication_threads file_replication_skip_indexes "
    "retention",
    "Export": "include_mirrored_files no_root_pypi root_passwd root_passwd_hash skip_import_type no_events",
    "Limits": "patience timeout request_timeout max_entry_size",
    "General": "json configfile log_level log_format help",
}

# Key in click's meta: the function that applies options which stand behind the command.
LATE = "replisync.late"


def _late(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """Apply an option of replisync itself that stands behind the command."""
    name = param.name or ""
    if value is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        apply: Callable[[click.Context, str, Any], None] = context.meta[LATE]
        apply(context, name, value)
    return value


def _own_options() -> list[click.Option]:
    def late(*names: str, **more: Any) -> click.Option:
        return click.Option(names, callback=_late, expose_value=False, is_eager=True, **more)

    return [
        late("-c", "--configfile", type=PATH, metavar="FILE", help="A TOML file with settings."),
        late("--log-level", type=click.Choice(LEVELS), help="Default: info."),
        late("--log-format", type=click.Choice(FORMATS), help="Default: console on a terminal, else json."),
    ]


class Command(click.Command):
    """A command.

    example: a command line, without the name of the program, shown first by `--help`.
    """

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        for option in _own_options():
            # A variable of its own would hold for one command only.
            option.allow_from_autoenv = False
            self.params.append(option)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unless an option is empty: it would mean another thing than its absence."""
        for param in self.params:
            given = ctx.get_parameter_source(param.name or "") is not ParameterSource.DEFAULT
            value = ctx.params.get(param.name or "")
            if given and (value == "" or (isinstance(value, tuple) and "" in value)):
                raise UsageError(f"cannot use {param.opts[0]}", "its value is empty")
        return super().invoke(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, and an example."""
        super().format_usage(ctx, formatter)
        if self.example:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"$ replisync {self.example}")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write where the documentation is."""
        formatter.write(f"\nMore: {_DOCS}/commands.md\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by sections."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *_SECTIONS)}
        titles = {name: title for title, names in _SECTIONS.items() for name in names.split()}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                name = "help" if "--help" in param.opts else param.name or ""
                sections[titles.get(name, "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """A group whose commands stand in the order in which they were added."""

    command_class = Command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write where the documentation is."""
        formatter.write(f"\nMore: {_DOCS}\n")

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands."""
        return list(self.commands)


def command(name: str | None = None, *, short: str, example: str) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a command.

    short: its line in the list of commands.
    example: see Command.
    """
    return click.command(name, cls=Command, short_help=short, example=example)
