"""A standby that is right, to be damaged."""

from pathlib import Path

import pytest

from tests.edges.conftest import Database, PostgresDatabase
from tests.edges.scenario import ChainedPrimary
from tests.edges.standbys import Standby, copied, made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Standby:
    """A standby in SQLite; copy it, change nothing in it."""
    return made(tmp_path_factory.mktemp("model") / "standby")


@pytest.fixture
def standby(database: Database, model: Standby, folder: Path) -> Standby:
    """A standby to do with as you like."""
    root = folder / "standby"
    if isinstance(database, PostgresDatabase):
        made = Standby(root, database, ChainedPrimary())
        made.make()
        return made
    return copied(model, root)


@pytest.fixture
def one(model: Standby, folder: Path) -> Standby:
    """A standby in SQLite, where the database makes no difference."""
    return copied(model, folder / "one")
