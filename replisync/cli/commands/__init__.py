"""The commands, one file each: options in, one operation, results on stdout.

Hold no rules: those live in the rooms below.
"""
