"""The first copy: from the changelog, a serverdir on this machine, or an export.

Knows how a target begins, and when it is handed over. Must not know the commands that come after.
"""
