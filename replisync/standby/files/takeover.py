"""Take over whole folders: files made for a target on its own disk need no copying."""

import os
from pathlib import Path

from replisync.system.durable import fsync_folder, local_errors, make_folder


def take_over(made: Path, files: Path, index: str) -> bool:
    """Move the folder of an index to its place among a target's files, durably.

    made: files in devpi's layout, on the same file system; correct and durable.
    Returns whether that folder is in place, by this call or an interrupted one; if anything else is in place,
    does nothing. Raises LocalFailure.
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
        # Also after an interrupted call: its names may not be on disk yet.
        for folder in (files.absolute().parent, files, target.parent, source.parent):
            fsync_folder(folder)
    return True
