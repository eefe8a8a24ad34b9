"""A primary with all kinds of content that nobody changes, and a finished standby of it to be copied."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.devpi import Server, copy_serverdir
from tests.support.proxy import Proxy
from tests.support.standby import Standby


@pytest.fixture(scope="session")
def still(
    tmp_path_factory: pytest.TempPathFactory, populated_serverdir: Path, secretfile: Path
) -> Iterator[Server]:
    """A running primary with all kinds of content; change nothing in it."""
    serverdir = copy_serverdir(populated_serverdir, tmp_path_factory.mktemp("still") / "primary")
    with Server(serverdir, secretfile=secretfile) as server:
        serial = server.serial()
        yield server
        assert server.serial() == serial, "a test changed the primary that all tests share"


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory, still: Server, secretfile: Path) -> Standby:
    """A finished standby of `still`; copy it, change nothing in it."""
    standby = Standby(tmp_path_factory.mktemp("cloned") / "standby", still.url, secretfile)
    standby.clone()
    return standby


@pytest.fixture
def standby(cloned: Standby, tmp_path: Path) -> Standby:
    """A finished standby of `still`, to do with as you like."""
    return cloned.copy(tmp_path / "standby")


@pytest.fixture
def proxy(still: Server) -> Iterator[Proxy]:
    """A proxy before `still`."""
    with Proxy(still.url) as proxy:
        yield proxy
