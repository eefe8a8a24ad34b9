"""The command line: options in, results on stdout, one line on stderr for what failed, an exit code."""

from replisync.cli.app import main

__all__ = ["main"]
