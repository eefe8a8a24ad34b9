"""List all files below a folder, in the order of their paths' bytes."""

import errno
import os
from collections.abc import Iterator

# Errors for folders that are gone, or deny access; the latter are found by their own names.
_PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)


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
            # The next one is taken from the end, so the first in order goes there.
            rest += _listed(root + b"/", path)


def _listed(root: bytes, folder: bytes) -> list[bytes]:
    """Return the paths in a folder, in reverse order.

    A folder's name is compared with a trailing slash, as in whole paths.
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
