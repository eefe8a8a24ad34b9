"""The arguments of this process, as other users of the machine see them in the process list."""

import os
from contextlib import suppress
from pathlib import Path

# Fields of /proc/self/stat behind the name of the process: where the arguments begin and end in memory.
_BOUNDS = slice(45, 47)


def hide(secret: str) -> None:
    """Overwrite a secret in the arguments, where the system allows it.

    It was visible until now: keep secrets in the environment or in the configuration file instead.
    """
    wanted = os.fsencode(secret)
    if not wanted:
        return
    # Only Linux has this file.
    with suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = map(int, fields[_BOUNDS])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            shown = memory.read(end - begin)
            covered = shown.replace(wanted, b"*" * len(wanted))
            if covered != shown:
                memory.seek(begin)
                memory.write(covered)
