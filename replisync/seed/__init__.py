"""The ways in which a target gets its first data."""
