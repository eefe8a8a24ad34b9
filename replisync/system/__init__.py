"""The machine: clock, durable writes, owners and modes, stopping, reading ahead, temporary databases.

Knows the operating system. Must not know devpi-server, HTTP, or what a standby is made of.
"""

from replisync.system import clock
from replisync.system.advice import chmod, quoted
from replisync.system.clock import is_time
from replisync.system.denied import DENIED, read_only
from replisync.system.durable import emptied, fsync_folder, local_errors, make_folder, trouble, write_file
from replisync.system.owners import OURS, give_all, hand_back, heir_of, held, new_folder, who
from replisync.system.prefetch import Prefetch
from replisync.system.sqlite_errors import sqlite_error
from replisync.system.stop import Stop
from replisync.system.tempdb import open_temporary, translated

__all__ = [
    "DENIED",
    "OURS",
    "Prefetch",
    "Stop",
    "chmod",
    "clock",
    "emptied",
    "fsync_folder",
    "give_all",
    "hand_back",
    "heir_of",
    "held",
    "is_time",
    "local_errors",
    "make_folder",
    "new_folder",
    "open_temporary",
    "quoted",
    "read_only",
    "sqlite_error",
    "translated",
    "trouble",
    "who",
    "write_file",
]
