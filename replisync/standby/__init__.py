"""The destination of bytes: the serverdir, its database and its files.

Knows disks and SQL. Must not know HTTP, nor when or why anything is written.
"""
