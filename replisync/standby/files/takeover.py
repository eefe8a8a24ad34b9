"""Whole folders of files that change hands: what was made for a target on its own disk need not be copied."""

import os
from pathlib import Path

from replisync.system.durable import fsync_folder, local_errors, make_folder


def take_over(made: Path, files: Path, index: str) -> bool:
    """Give the folder of an index its place among a target's files, durably.

    made: files in devpi's layout, on the same file system. They are right, and durable.
    Returns whether the folder that is in place is the one that was made, by this call or by an interrupted
    one; where something else is there, nothing is done. Raises LocalFailure.
    """
    source, target = made.absolute() / index, files.absolute() / index
    with local_errors(f"cannot take over {source}"):
        if source.is_dir():
            if os.path.lexists(target):
                return False
            make_folder(target.parent)
            os.rename(source, target)
        elif not (source.parent.is_dir() and target.is_dir()):
            return False
        # Also what an interrupted call made: its names need not be on disk yet.
        for folder in (files.absolute().parent, files, target.parent, source.parent):
            fsync_folder(folder)
    return True
