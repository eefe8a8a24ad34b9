"""The checks of `verify`, one module each; nothing here writes.

A check reads, and reports suspicions. Must not know how they are repaired.
"""
