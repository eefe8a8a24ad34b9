"""The tables of a target's database.

`changelog` and `kv` are devpi's (source: `devpi_server/keyfs_sqlite_fs.py`); devpi-server creates missing
ones when it starts, so they are created here with its own statements. The others are ours: devpi-server
ignores tables that it does not know. The migrations create them, and a test compares both.
"""

from collections.abc import Callable, Iterable

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

devpi_metadata = MetaData()

# Paths are compared byte by byte, even if PostgreSQL's default is the order of a language.
_PATH = Text().with_variant(Text(collation="C"), "postgresql")

changelog = Table(
    "changelog",
    devpi_metadata,
    Column("serial", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

kv = Table(
    "kv",
    devpi_metadata,
    Column("key", Text, primary_key=True),
    Column("keyname", Text),
    Column("serial", Integer),
    Index("kv_serial_idx", "serial"),
)

metadata = MetaData()

# The source of the data, and the seeding: one row.
source = Table(
    "replisync_source",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("primary_url", Text, nullable=False),
    Column("primary_uuid", String(64), nullable=False),
    Column("uuid", String(64), nullable=False),
    Column("storage", Text, nullable=False),
    Column("seed_kind", String(32), nullable=False),
    Column("seed_serial", Integer),
    Column("seed_started", String(32), nullable=False),
    Column("seed_finished", String(32)),
    Column("promoted", String(32)),
    Column("seed_reason", Text),
)

# The primaries of the history, each from its first serial on; no rows while there was one only.
lineage = Table(
    "replisync_lineage",
    metadata,
    Column("from_serial", Integer, primary_key=True, autoincrement=False),
    Column("uuid", String(64), nullable=False),
    Column("since", String(32), nullable=False),
)

# The primary's own bytes of the entry at our last serial, if ours differ: at most one row.
tip = Table(
    "replisync_tip",
    metadata,
    Column("serial", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

# The last contact with the primary: one row, which the hot standby's plugin reads too.
contact = Table(
    "replisync_contact",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("contacted_at", String(32), nullable=False),
    Column("primary_serial", Integer, nullable=False),
    Column("in_sync_at", String(32)),
)

# A divergence from the primary: one row, from its discovery until both agree again.
divergence = Table(
    "replisync_divergence",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("found_at", String(32), nullable=False),
    Column("serial", Integer, nullable=False),
    Column("fork_serial", Integer),
    Column("reason", Text, nullable=False),
)

# The last verification, and earlier ones of higher levels while findings of them remain: id is 1 for quick to
# 4 for primary, and the last one has the lowest. outcome: ok, repaired, failed. found: kinds and names, see
# verify.standing; NULL if not recorded.
verify = Table(
    "replisync_verify",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("level", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("serial", Integer, nullable=False),
    Column("started", String(32), nullable=False),
    Column("finished", String(32), nullable=False),
    Column("findings", Integer, nullable=False),
    Column("repaired", Integer, nullable=False),
    Column("found", Text),
)

# Each run of a command that writes.
runs = Table(
    "replisync_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("command", String(32), nullable=False),
    Column("started", String(32), nullable=False),
    Column("finished", String(32)),
    Column("from_serial", Integer),
    Column("to_serial", Integer),
    Column("files", Integer, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("local", Integer, nullable=False, server_default=text("0")),
    Column("seconds", Float),
    Column("outcome", String(32), nullable=False),
    Column("exit_code", Integer),
    Column("error", Text),
)

# One row per commit: serial to wall time, and the witnesses of its entries, see changelog.witness; NULL if
# none of them has one.
timeline = Table(
    "replisync_timeline",
    metadata,
    Column("serial", Integer, primary_key=True, autoincrement=False),
    Column("committed_at", String(32), nullable=False),
    Column("witnesses", LargeBinary),
)

# Each file that the live keys demand. state: wanted (missing for now), present, absent (expectedly missing).
# reason: why it is missing, in one clause; NULL if it is present, or has a fault.
files = Table(
    "replisync_files",
    metadata,
    Column("relpath", _PATH, primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("size", BigInteger),
    Column("reason", Text),
    Index(
        "replisync_files_open_idx",
        "state",
        "relpath",
        sqlite_where=text("state <> 'present'"),
        postgresql_where=text("state <> 'present'"),
    ),
)

# Files that could not be fetched. kind: held (the serial waits for it), mirror, unfetchable, skipped.
faults = Table(
    "replisync_faults",
    metadata,
    Column("relpath", _PATH, primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_try", String(32)),
)

# Pending work on disk for a committed serial: moves that must come after the commit. action: drop (the file
# has no live key any more), replace (staged holds the new content). And files that are placed before their
# serial is committed: arrive (the commit removes the row; a commit without the file makes it a drop). Its
# serial is -1 for a rewind.
pending = Table(
    "replisync_pending",
    metadata,
    Column("relpath", _PATH, primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("action", String(8), nullable=False),
    Column("staged", Text),
)

# Files that deltas dropped or replaced, kept for the retention time. serial: the one that did; -1 if it is
# not of this history, because a rewind reverted it. overdue_at: when its retention was first found to be
# over, by a clock that may be wrong; NULL before.
retained = Table(
    "replisync_retained",
    metadata,
    Column("stored_as", _PATH, primary_key=True),
    Column("relpath", _PATH, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("retained_at", String(32), nullable=False),
    Column("overdue_at", String(32)),
    Index("replisync_retained_relpath_idx", "relpath", "serial"),
)


def missing_of_ours(columns_of: Callable[[str], Iterable[str]]) -> list[str]:
    """Return the names of our tables that are missing, or have other columns.

    columns_of: returns the names of a table's columns; none for a missing table.
    """
    return [
        table.name
        for table in metadata.sorted_tables
        if {column.name for column in table.columns} != set(columns_of(table.name))
    ]
