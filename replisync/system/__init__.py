"""The machine: clock, durable writes, owners and modes, stopping, reading ahead, temporary databases.

Knows the operating system. Must not know devpi-server, HTTP, or what a standby is made of.
"""
