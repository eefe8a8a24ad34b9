"""Where a target's files lie."""
