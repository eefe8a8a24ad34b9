"""The repairs of `verify --repair`.

Knows the findings and how to remove their causes. Must not judge what no check reported.
"""
