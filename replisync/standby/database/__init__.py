"""All SQL: devpi's tables and ours, in SQLite and PostgreSQL.

Knows transactions and tables. Must not know files, HTTP, or what a value means beyond its key.
"""
