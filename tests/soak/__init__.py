"""A long run with everything that goes wrong: `make soak`."""
