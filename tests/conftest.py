"""Fixtures that start real servers; whatever a fixture starts ends with it."""

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from tests.support import forked
from tests.support.content import populate_everything
from tests.support.devpi import Server, copy_serverdir, make_secret
from tests.support.old_devpi import LAST_WITHOUT_BLOCKS, LAST_WITHOUT_STREAMING, old_release
from tests.support.postgres import Postgres
from tests.support.upstream import Upstream

# A test that hangs for so long prints all stacks and ends the run.
HANG_SECONDS = 600


# The files that take longest. They come first, so that no job is left alone with one of them at the end.
LONGEST = (
    "e2e/test_seed_ways.py",
    "e2e/test_export_seed.py",
    "crashes/test_replication.py",
    "faults/test_owners.py",
    "e2e/test_postgres.py",
    "faults/test_clocks.py",
    "e2e/test_dumps.py",
    "faults/test_kills.py",
    "e2e/test_examples.py",
    "e2e/test_passwords.py",
    "faults/test_postgres_network.py",
    "faults/test_reseed.py",
    "faults/test_damages.py",
    "edges/verify/test_damages.py",
    "faults/test_damaged_primary.py",
    "crashes/test_repair.py",
    "e2e/test_wheel.py",
    "faults/test_divergence.py",
    "crashes/test_rewind.py",
    "crashes/test_upgrades.py",
    "e2e/test_old_servers.py",
)

_stderr = pytest.StashKey[TextIO]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr, which pytest captures during tests; start programs the quick way."""
    forked.use()
    config.stash[_stderr] = os.fdopen(os.dup(2), "w")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what pytest_configure opened."""
    config.stash[_stderr].close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that take longest."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _no_hanging_tests(pytestconfig: pytest.Config) -> Iterator[None]:
    """End the run with all stacks when a single test takes far too long."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=pytestconfig.stash[_stderr])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def secretfile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secret that primaries and their replicas share."""
    return make_secret(tmp_path_factory.mktemp("secret") / "secret")


@pytest.fixture
def primary(tmp_path: Path, secretfile: Path) -> Iterator[Server]:
    """A running primary with nothing in it but the user root."""
    with Server(tmp_path / "primary", secretfile=secretfile).init() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; each test takes databases of its own."""
    with Postgres() as server:
        yield server


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An empty upstream index for mirrors."""
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def populated_upstream() -> Iterator[Upstream]:
    """The upstream of the mirrors in `populated_serverdir`; change nothing in it."""
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def populated_serverdir(
    tmp_path_factory: pytest.TempPathFactory, secretfile: Path, populated_upstream: Upstream
) -> Path:
    """The serverdir of a stopped primary with all kinds of content; copy it, change nothing in it."""
    serverdir = tmp_path_factory.mktemp("populated") / "primary"
    with Server(serverdir, secretfile=secretfile).init() as server:
        populate_everything(server, populated_upstream)
    return serverdir


@pytest.fixture
def populated(tmp_path: Path, populated_serverdir: Path, secretfile: Path) -> Iterator[Server]:
    """A running primary with all kinds of content, to do with as you like."""
    serverdir = copy_serverdir(populated_serverdir, tmp_path / "populated")
    with Server(serverdir, secretfile=secretfile) as server:
        yield server


@pytest.fixture
def primary_before_streaming(tmp_path: Path, secretfile: Path) -> Iterator[Server]:
    """An empty running primary of the last release that sends the changelog in blocks (before 6.5.0)."""
    yield from _old_primary(tmp_path / "old", secretfile, LAST_WITHOUT_STREAMING)


@pytest.fixture
def primary_before_blocks(tmp_path: Path, secretfile: Path) -> Iterator[Server]:
    """An empty running primary of the last release that sends single entries only (before 4.9.0)."""
    yield from _old_primary(tmp_path / "oldest", secretfile, LAST_WITHOUT_BLOCKS)


def _old_primary(serverdir: Path, secretfile: Path, version: str) -> Iterator[Server]:
    with Server(serverdir, secretfile=secretfile, release=old_release(version)).init() as server:
        yield server
