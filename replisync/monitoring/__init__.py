"""Where a standby stands: for people, scripts and monitors.

Knows what was recorded and what the primary says now. Must not change anything.
"""
