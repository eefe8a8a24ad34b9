"""All files: on disk or as rows, staged, placed, retained, looked at; also those that lie here already.

Knows digests, syncs and renames. Must not know serials or transactions.
"""
