"""The sources of option values: flag, own variable, common variable, own table, top of the file, default."""

import tomllib
from pathlib import Path
from typing import Any

import click

from replisync.errors import UsageError

# Settings that say where and how, and so may hold for each command that has the option. Others say what to
# do, or differ in meaning, such as `patience`, which `follow` has without end.
COMMON = frozenset(
    [
        "serverdir",
        "primary-url",
        "storage",
        "secretfile",
        "replica-keyfile",
        "ca-bundle",
        "replica-cert",
        "json",
        "argon2-memory-cost",
        "argon2-parallelism",
        "argon2-time-cost",
        "request-timeout",
        "max-entry-size",
        "retention",
        "file-replication-threads",
        "file-replication-skip-indexes",
        "replica-file-search-path",
        "hard-links",
    ]
)

# The same for replisync itself.
_OWN = frozenset({"log-level", "log-format"})


def name_variables(app: click.Group) -> None:
    """Give each common option its two variables: of its command, and of all commands."""
    for path, command in leaves(app, ""):
        for param in command.params:
            for name in sorted(COMMON):
                if f"--{name}" in param.opts:
                    param.envvar = [_variable(f"{path} {name}"), _variable(name)]


def leaves(group: click.Group, before: str) -> list[tuple[str, click.Command]]:
    """Return the commands below a group, without groups, each with its words."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        found += leaves(command, words) if isinstance(command, click.Group) else [(words, command)]
    return found


def _variable(words: str) -> str:
    return "REPLISYNC_" + words.strip().upper().replace("-", "_").replace(" ", "_")


def read_config(app: click.Group, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the defaults of a TOML file, by command and option, and those of replisync's own options.

    Raises UsageError if it cannot be read, or names an unknown command or option.
    """
    attempted = f"cannot read the configuration {path}"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(attempted, err.strerror or str(err)) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise UsageError(attempted, str(err)) from err
    own: dict[str, str] = {}
    for name in _OWN & tables.keys():
        param = _option(app, name)
        value = tables.pop(name)
        if param is None or not isinstance(value, str) or value not in getattr(param.type, "choices", ()):
            raise UsageError(attempted, f"{value!r} is not a value of {name!r}")
        own[name] = value
    return _defaults(app, tables, attempted, ""), own


def _defaults(group: click.Group, tables: dict[str, Any], attempted: str, within: str) -> dict[str, Any]:
    """Return click's defaults for the commands of a group; an option in the group's table applies to all."""
    defaults: dict[str, Any] = {
        name: _defaults(command, {}, attempted, "") if isinstance(command, click.Group) else {}
        for name, command in group.commands.items()
    }
    general: list[tuple[str, Any]] = []
    for name, table in tables.items():
        command = group.commands.get(name)
        if command is None or not isinstance(table, dict):
            general.append((name, table))
        elif isinstance(command, click.Group):
            defaults[name] = _defaults(command, table, attempted, f"{within}{name} ")
        else:
            for option, value in table.items():
                parameter = _option(command, option)
                if parameter is None:
                    raise UsageError(attempted, f"`{within}{name}` has no option {option!r}")
                defaults[name][parameter.name] = _plain(value, option, attempted, parameter)
    for name, value in general:
        if not within and isinstance(value, dict):
            raise UsageError(attempted, f"replisync has no command {name!r}")
        if not within and name not in COMMON:
            raise UsageError(
                attempted, f"{name!r} is not a common setting", hint="put it into the table of a command"
            )
        if not _spread(group, defaults, name, value, attempted):
            raise UsageError(attempted, f"`{within.strip()}` has no command or option {name!r}")
    return defaults


def _spread(group: click.Group, defaults: dict[str, Any], name: str, value: Any, attempted: str) -> bool:
    """Give an option to each command of a group that has it without a value; return whether one has it."""
    taken = False
    for known, command in group.commands.items():
        if isinstance(command, click.Group):
            taken = _spread(command, defaults[known], name, value, attempted) or taken
        elif (found := _option(command, name)) is not None:
            defaults[known].setdefault(found.name, _plain(value, name, attempted, found))
            taken = True
    return taken


def _option(command: click.Command, name: str) -> click.Parameter | None:
    # Not those of replisync itself, which may stand behind a command, but not in its table.
    return next(
        (p for p in command.params if f"--{name}" in p.opts and getattr(p, "expose_value", True)), None
    )


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
