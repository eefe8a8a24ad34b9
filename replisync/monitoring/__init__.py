"""The state of a standby: for people, scripts and monitors.

Knows the recorded state and the primary's current position. Must not change anything.
"""
