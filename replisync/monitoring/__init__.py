"""The state of a standby: for people, scripts and monitors.

Knows the recorded state and the primary's current position. Must not change anything.
"""

from replisync.monitoring.position import Position, ask_position
from replisync.monitoring.status import check_lag, status

__all__ = [
    "Position",
    "ask_position",
    "check_lag",
    "status",
]
