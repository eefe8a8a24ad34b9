"""The operator's actions, one module each: follow, promote, faults, reseed.

Composes the rooms below. Must not know the command line.
"""

from replisync.operations.faults import clear_faults, list_faults, retry_faults, skip_faults
from replisync.operations.follow import Goal, run_catchup, run_follow
from replisync.operations.promote import Choices, promote
from replisync.operations.reseed import Reseeded, forecast_reseed, reseed

__all__ = [
    "Choices",
    "Goal",
    "Reseeded",
    "clear_faults",
    "forecast_reseed",
    "list_faults",
    "promote",
    "reseed",
    "retry_faults",
    "run_catchup",
    "run_follow",
    "skip_faults",
]
