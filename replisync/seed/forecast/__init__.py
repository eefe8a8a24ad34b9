"""What a clone would fetch, found out without writing: `--plan`.

Knows where files lie, and how long they are elsewhere. Must not write into a target.
"""
