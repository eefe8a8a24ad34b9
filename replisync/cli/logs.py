"""Logging to stderr: readable on a terminal, JSON elsewhere."""

import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")


def printable(text: str) -> str:
    """Return a text with control and unprintable characters escaped.

    File names and a server's words are untrusted: a terminal must not interpret them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable_values(_logger: Any, _method: str, values: Any) -> Any:
    return {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}


class _Lines:
    """A structlog logger that ignores a closed stream or a full disk.

    The work matters more than the log.
    stream: None for the current sys.stderr at each line, which a display may replace.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write a line, if possible."""
        stream = self._stream or sys.stderr
        with suppress(OSError):
            stream.write(f"{message}\n")
            stream.flush()

    debug = info = warning = error = msg


def make_logger(level: str, form: str | None, stream: TextIO | None = None) -> Any:
    """Return the logger of this process.

    level: one of LEVELS.
    form: one of FORMATS; None for console on a terminal, else json.
    """
    terminal = (stream or sys.stderr).isatty()
    form = form or ("console" if terminal else "json")
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        # A plain traceback shows no values: one might be a secret.
        shared.append(_printable_values)
        plain = structlog.dev.plain_traceback
        colors = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
    return structlog.wrap_logger(
        _Lines(stream),
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
