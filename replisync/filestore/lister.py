"""Listing all files below a folder, in the order of their paths' bytes; also a program of its own.

As a program it shares no interpreter with whoever computes digests meanwhile. It is given the folder, writes
the paths below it, each ended by a NUL, and ends with the number of the system's error, or 0.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator

# What is there no more, or lets nobody in, which is found by its own name.
_PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)

_PAGE = 2000


def names(root: bytes) -> Iterator[bytes]:
    """Yield the paths below a folder.

    Raises OSError.
    """
    rest = [b""]
    while rest:
        path = rest.pop()
        if path and path[-1:] != b"/":
            yield path
        else:
            # The next one is the last one, so the first in order goes there.
            rest += _listed(root + b"/", path)


def _listed(root: bytes, folder: bytes) -> list[bytes]:
    """Return the paths in a folder, the last one in order first.

    A folder's name counts with the slash that follows it, as in whole paths.
    """
    try:
        with os.scandir(root + folder) as found:
            listed = [
                folder + entry.name + b"/" if entry.is_dir(follow_symlinks=False) else folder + entry.name
                for entry in found
            ]
    except OSError as err:
        if err.errno in _PASSED_OVER:
            return []
        raise
    if len(listed) > 1:
        listed.sort(reverse=True)
    return listed


def main(root: bytes) -> int:
    """Write all paths; return the number of the error that ended it."""
    page: list[bytes] = []
    try:
        for name in names(root):
            page.append(name)
            if len(page) >= _PAGE:
                sys.stdout.buffer.write(b"\0".join(page) + b"\0")
                page = []
        sys.stdout.buffer.write(b"".join(name + b"\0" for name in page))
        sys.stdout.buffer.flush()
    except OSError as err:
        return err.errno or 1
    return 0


if __name__ == "__main__":
    # Who started it ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(os.fsencode(sys.argv[1])))
