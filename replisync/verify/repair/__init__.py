"""What `verify --repair` does about what was found.

Knows the findings and how to remove their causes. Must not judge what no check reported.
"""
