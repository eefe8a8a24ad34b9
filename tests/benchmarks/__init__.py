"""Ratios of replisync to its baselines, each measured in one run on one machine."""
