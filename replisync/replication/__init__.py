"""The loop: read ahead, fetch files, judge refusals, commit a batch, settle, repeat.

Knows the order of files and commits. Must not open a file, a socket or a database itself.
"""

from replisync.replication.context import Context
from replisync.replication.fetch import Fetched, Fetcher, NoSource, Refused
from replisync.replication.loop import Patience, catch_up, follow
from replisync.replication.missing import Tally, not_skipped
from replisync.replication.pipeline import Pipeline, until
from replisync.replication.refusals import Judgement, judge
from replisync.replication.retries import Retries
from replisync.replication.settle import expire_retained, settle

__all__ = [
    "Context",
    "Fetched",
    "Fetcher",
    "Judgement",
    "NoSource",
    "Patience",
    "Pipeline",
    "Refused",
    "Retries",
    "Tally",
    "catch_up",
    "expire_retained",
    "follow",
    "judge",
    "not_skipped",
    "settle",
    "until",
]
