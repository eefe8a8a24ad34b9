"""`replisync completion`."""

import click
from click.shell_completion import get_completion_class

from replisync.cli.command import command
from replisync.errors import UsageError

# The variable by which a shell asks for completions.
COMPLETE = "_REPLISYNC_COMPLETE"


@command(
    short="Print a shell's completion script",
    example="completion bash > ~/.local/share/bash-completion/completions/replisync",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    found = get_completion_class(shell)
    if found is None:
        raise UsageError("cannot complete", f"the installed click does not know {shell}")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "replisync", COMPLETE).source())
