"""Verification of a standby, and its repair.

Knows the invariants between entries, keys, tables and files. Must not know why a command asks.
"""

from replisync.verify import owner
from replisync.verify.findings import DATABASE, LISTED, PERMISSIONS, Finding, Report
from replisync.verify.repair.repair import repair
from replisync.verify.run import Level, look, readable, subject_of, verify
from replisync.verify.standing import Standing, distinct, found_now, standing

__all__ = [
    "DATABASE",
    "LISTED",
    "PERMISSIONS",
    "Finding",
    "Level",
    "Report",
    "Standing",
    "distinct",
    "found_now",
    "look",
    "owner",
    "readable",
    "repair",
    "standing",
    "subject_of",
    "verify",
]
