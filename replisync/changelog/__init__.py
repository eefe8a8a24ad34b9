"""From entries to what must be done: batches, records, comparison of histories, and the ports of the loop.

Knows what an entry means to a replica. Does no I/O, and must not know how it is read, fetched or stored.
"""
