"""Logging: for people on a terminal, as JSON elsewhere; always on stderr."""

import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")


def printable(text: str) -> str:
    """Return a text with what a terminal would obey, or cannot show, written out.

    Names of files, and words of a server, come from outside.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable_values(_logger: Any, _method: str, values: Any) -> Any:
    return {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}


class _Lines:
    """A logger of structlog that outlives the reader of its stream, and a full disk under it.

    What is done matters more than what is said of it.
    stream: None for whatever stderr is at the time of each line; a display puts itself in its place.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write a line, if that is possible."""
        stream = self._stream or sys.stderr
        with suppress(OSError):
            stream.write(f"{message}\n")
            stream.flush()

    debug = info = warning = error = msg


def make_logger(level: str, form: str | None, stream: TextIO | None = None) -> Any:
    """Return the logger of this process.

    level: one of LEVELS.
    form: one of FORMATS; None chooses by whether the stream is a terminal.
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
        # The plain form of a traceback has no values in it, among which a secret might be.
        shared.append(_printable_values)
        plain = structlog.dev.plain_traceback
        colors = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
    return structlog.wrap_logger(
        _Lines(stream),
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
