"""The source of bytes: one primary over HTTP, its secret, its certificates.

Knows HTTP and the meaning of each answer. Must not know how entries are applied or stored.
"""
