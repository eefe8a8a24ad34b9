"""The operator's actions, one module each: follow, promote, faults, reseed.

Composes the rooms below. Must not know the command line.
"""
