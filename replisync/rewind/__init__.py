"""Back to an older serial, with its files.

Knows how to undo what later serials did. Must not know why a history is left.
"""
