"""Seeding through devpi's own tools: devpi-export on a snapshot, devpi-import, serials moved.

Knows dumps and devpi's commands. Must not know the other ways of seeding.
"""
