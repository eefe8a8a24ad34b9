"""The destination of bytes: the serverdir, its database and its files.

Knows disks and SQL. Must not know HTTP, nor when or why anything is written.
"""

from replisync.standby.database import audit, invalidrows, schema
from replisync.standby.database.audit import LedgerFile
from replisync.standby.database.invalidrows import OddRow, hide, odd_rows
from replisync.standby.database.repairs import Repairs
from replisync.standby.database.schema import HEAD, VERSION_TABLE
from replisync.standby.database.store import Store
from replisync.standby.database.undo import damaged
from replisync.standby.files.disk import DiskFiles
from replisync.standby.files.hashing import Kind, Looked, Seen
from replisync.standby.files.local import DUMP_INDEX, FILES, LocalFiles, read_dump, size_of
from replisync.standby.files.survey import Survey
from replisync.standby.files.sync import NoSync, Syncer
from replisync.standby.files.takeover import take_over
from replisync.standby.opening import (
    existing_standby,
    open_database,
    readable_standby,
    require_ours,
    require_replica,
    require_same,
    require_standby,
    warn_of_readers,
)
from replisync.standby.serverdir import SQLITE_FILE, Serverdir

__all__ = [
    "DUMP_INDEX",
    "FILES",
    "HEAD",
    "SQLITE_FILE",
    "VERSION_TABLE",
    "DiskFiles",
    "Kind",
    "LedgerFile",
    "LocalFiles",
    "Looked",
    "NoSync",
    "OddRow",
    "Repairs",
    "Seen",
    "Serverdir",
    "Store",
    "Survey",
    "Syncer",
    "audit",
    "damaged",
    "existing_standby",
    "hide",
    "invalidrows",
    "odd_rows",
    "open_database",
    "read_dump",
    "readable_standby",
    "require_ours",
    "require_replica",
    "require_same",
    "require_standby",
    "schema",
    "size_of",
    "take_over",
    "warn_of_readers",
]
