"""Write the commands that messages name, so that they can be pasted as they are."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from replisync.errors import Advice
from replisync.system import quoted

# Key in click's meta: the values of those options that commands in messages need as well.
GIVEN = "replisync.given"


def teller(app: click.Group, given: Mapping[str, Path], configfile: Path | None) -> Callable[[Advice], str]:
    """Return what writes commands in this run.

    given: by option; each command gets those that it has. Paths become absolute, since a message may be read
        elsewhere: in a log, or in `status`.
    """
    before = {"configfile": _absolute(configfile)} if configfile else {}

    def tell(advice: Advice) -> str:
        command: click.Command = app
        for word in advice.words.split():
            command = command.commands[word] if isinstance(command, click.Group) else command
        names = [param.name for param in command.params if param.name in given]
        more = {name: _absolute(given[name]) for name in names if name and name not in advice.options}
        return advice.spelled(more, before)

    return tell


def _absolute(path: Path) -> str:
    return quoted(os.path.abspath(path))
