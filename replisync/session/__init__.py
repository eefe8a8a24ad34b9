"""One opened standby, put together with its primary and its loop.

Knows how the parts fit. Must not know what a command does with them.
"""

from replisync.session.runs import Record, recorded
from replisync.session.session import Session, local_files
from replisync.session.settings import ASK_SECONDS, Settings

__all__ = [
    "ASK_SECONDS",
    "Record",
    "Session",
    "Settings",
    "local_files",
    "recorded",
]
