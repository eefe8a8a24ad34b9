"""Proving a standby, and mending it."""
