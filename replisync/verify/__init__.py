"""Verification of a standby, and its repair.

Knows the invariants between entries, keys, tables and files. Must not know why a command asks.
"""
