"""Logging: for people on a terminal, as JSON elsewhere; always on stderr."""

import logging
import sys
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")


def make_logger(level: str, form: str | None, stream: TextIO | None = None) -> Any:
    """Return the logger of this process.

    level: one of LEVELS.
    form: one of FORMATS; None chooses by whether the stream is a terminal.
    """
    stream = stream or sys.stderr
    form = form or ("console" if stream.isatty() else "json")
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
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
    return structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
