"""Whether a standby is what it should be, and its repair.

Knows what must hold between entries, keys, tables and files. Must not know why a command asks.
"""
