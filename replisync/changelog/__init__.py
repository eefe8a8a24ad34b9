"""From entries to actions: batches, records, comparison of histories, and the ports of the loop.

Knows the meaning of an entry to a replica. Does no I/O, and must not know how it is read, fetched or stored.
"""
