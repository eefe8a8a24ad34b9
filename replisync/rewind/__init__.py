"""Rewind to an older serial, with its files.

Knows how to undo later serials. Must not know the reason.
"""

from replisync.rewind.rewind import rewind

__all__ = [
    "rewind",
]
