"""Hostile input for everything that reads a changelog."""
