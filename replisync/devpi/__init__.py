"""Formats that devpi-server defines: values on the wire, entries, keys, tokens, storage, `.nodeinfo`.

Knows the formats of devpi-server 4 to 6. Does no I/O, and must not know what is done with any of it.
"""
