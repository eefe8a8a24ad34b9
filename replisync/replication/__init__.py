"""The loop: read ahead, fetch files, judge refusals, commit a batch, settle, repeat.

Knows the order of files and commits. Must not open a file, a socket or a database itself.
"""
