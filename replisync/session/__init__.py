"""One opened standby, put together with its primary and its loop.

Knows how the parts fit. Must not know what a command does with them.
"""
