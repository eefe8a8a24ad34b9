"""What a promoted server tells its plugins, and the search index of devpi-web on it."""

import re
from pathlib import Path

import pytest
from whoosh.index import EmptyIndexError, open_dir

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.history import read_history
from tests.support.standby import Standby
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until


def private_projects(serverdir: Path) -> set[str]:
    """Return the projects of private indexes, as `user/index/project`."""
    latest = read_history(serverdir).latest()
    kinds = {
        f"{key.partition('/')[0]}/{name}": settings["type"]
        for key, (keyname, _, value) in latest.items()
        if keyname == "USER" and value
        for name, settings in value["indexes"].items()
    }
    return {
        f"{index}/{project}"
        for key, (keyname, _, value) in latest.items()
        if keyname == "PROJNAMES" and kinds.get(index := key.removesuffix("/.projects")) == "stage"
        for project in value or ()
    }


# devpi-web opens its index in two steps: it lists the folder, and reads the newest table of contents. Its
# indexer commits after each project, and so replaces that table. Where it does so in between, a search ends
# with a 500, or takes the index for missing and puts an empty one in its place (`Index.ix` of
# devpi_web/whoosh_index.py). That happens on a primary too. So nothing searches here while a server indexes.
# A server whose own threads emptied the index is started again: each start completes it.


def index_all(server: Server, expected: set[str]) -> None:
    """Let a server run until devpi-web has indexed these projects."""

    def indexed() -> None:
        with server:
            wait_until(
                lambda: expected <= indexed_projects(server.serverdir),
                60,
                f"all of {sorted(expected)} are indexed",
            )

    try:
        indexed()
    except AssertionError:
        indexed()


def found_projects(server: Server) -> set[str]:
    """Return all projects that devpi-web's search page finds, as `user/index/project`."""
    found: set[str] = set()
    with Client(server.url) as client:
        for page in range(1, 50):
            text = client.request("GET", f"/+search?query=type:project&page={page}").text
            new = set(re.findall(r'"packagedetails"><span>/([^<]+)</span>', text)) - found
            if not new:
                return found
            found |= new
    raise AssertionError("the search page has no end")


def indexed_projects(serverdir: Path) -> set[str]:
    """Return the projects that devpi-web's index has, read from its files."""
    try:
        with open_dir(serverdir / ".indices", indexname="project").searcher() as searcher:
            return {row["path"].removeprefix("/") for row in searcher.documents(type="project")}
    except (OSError, EmptyIndexError):
        return set()  # it is not there yet, or was written meanwhile


# The index names classes of devpi-web's, which import what Python 3.13 lacks.
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("seed", ["changelog", "export"])
def test_the_search_index_is_complete_after_a_promotion(
    still: Server, cloned: Standby, populated_upstream: Upstream, tmp_path: Path, secretfile: Path, seed: str
) -> None:
    """Each project of the primary is found, although its events count as handled."""
    if seed == "changelog":
        standby = cloned.copy(tmp_path / "standby")
    else:
        standby = Standby(tmp_path / "standby", still.url, secretfile)
        standby.clone("--from-serverdir", still.serverdir, "--seed", "export")
    standby.promote()
    assert (standby.serverdir / ".event_serial").read_text() == str(still.serial() + 1)
    assert not (standby.serverdir / ".indices").exists()
    # Of root/mirror devpi-web cannot index everything, on the primary neither: its names are odd.
    mirrored = {f"root/external/{name}" for name in populated_upstream.projects}
    expected = private_projects(still.serverdir) | mirrored
    index_all(Server(standby.serverdir, secretfile=secretfile, web=True), expected)
    # Such a server has no indexer.
    with Server(standby.serverdir, secretfile=secretfile, web=True, requests_only=True) as reader:
        found = found_projects(reader)
        assert expected - found == set()
        others = found - expected
        assert [name for name in others if not name.startswith("root/mirror/")] == []
