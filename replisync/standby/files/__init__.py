"""All files: on disk or as rows, staged, placed, retained, surveyed; also those already on this machine.

Knows digests, syncs and renames. Must not know serials or transactions.
"""
