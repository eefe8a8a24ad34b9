"""What `verify` looks for, a module each; nothing here writes.

A check reads, and reports what it suspects. Must not know how it is repaired.
"""
