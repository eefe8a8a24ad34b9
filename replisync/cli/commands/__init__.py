"""The commands, a file each: options in, one operation, results on stdout.

Must hold no rules of its own: those are in the rooms below.
"""
