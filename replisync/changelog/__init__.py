"""From entries to actions: batches, records, comparison of histories, and the ports of the loop.

Knows the meaning of an entry to a replica. Does no I/O, and must not know how it is read, fetched or stored.
"""

from replisync.changelog.divergence import Comparison
from replisync.changelog.plan import Batch, BatchLimits, WantedFile, batches, wanted_file
from replisync.changelog.ports import (
    Changes,
    ChunkSource,
    Download,
    FileSource,
    FileStore,
    Hello,
    History,
    Log,
    Progress,
)
from replisync.changelog.records import (
    ABSENT,
    PRESENT,
    UNASKED,
    UNFETCHABLE,
    WANTED,
    Commit,
    Contact,
    Divergence,
    Fault,
    FileCounts,
    FileRow,
    Identity,
    Lineage,
    Pending,
    Retained,
    Run,
    Source,
    Verification,
)
from replisync.changelog.rewrite import EXPORT, Rewriter, rewritten
from replisync.changelog.witness import witness

__all__ = [
    "ABSENT",
    "EXPORT",
    "PRESENT",
    "UNASKED",
    "UNFETCHABLE",
    "WANTED",
    "Batch",
    "BatchLimits",
    "Changes",
    "ChunkSource",
    "Commit",
    "Comparison",
    "Contact",
    "Divergence",
    "Download",
    "Fault",
    "FileCounts",
    "FileRow",
    "FileSource",
    "FileStore",
    "Hello",
    "History",
    "Identity",
    "Lineage",
    "Log",
    "Pending",
    "Progress",
    "Retained",
    "Rewriter",
    "Run",
    "Source",
    "Verification",
    "WantedFile",
    "batches",
    "rewritten",
    "wanted_file",
    "witness",
]
