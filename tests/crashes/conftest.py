"""The fixtures of the edges, which these tests drive through every point of failure."""

from tests.edges.conftest import _few_authorities, few_authorities, folder

__all__ = ["_few_authorities", "few_authorities", "folder"]
