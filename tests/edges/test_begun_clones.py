"""A clone that was begun goes on as it was begun, or says what is the matter; its plan says the same."""

from pathlib import Path

import pytest

from replisync.changelog.records import Identity, Source
from replisync.changelog.rewrite import EXPORT
from replisync.errors import TargetUnusable
from replisync.seed.basecopy import KIND as COPY
from replisync.seed.changelog import KIND as CHANGELOG
from replisync.seed.export.tools import ToolOptions
from replisync.seed.forecast.forecast import forecast
from replisync.seed.target import check_begun
from replisync.seed.ways import Seed, Seeding, Sources, clone
from replisync.session.settings import Settings
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.serverdir import Serverdir
from tests.edges.standbys import context
from tests.support.history import files_below

# Where nobody answers: what is refused is refused before anybody is asked.
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """What looks like a dump of devpi-export."""
    folder = tmp_path / "dump"
    folder.mkdir()
    (folder / "dataindex.json").write_text('{"dumpversion": "2", "users": {}, "indexes": {}}')
    return folder


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """What looks like the serverdir of the primary."""
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / ".nodeinfo").write_text('{"uuid": "primary", "role": "primary"}')
    (folder / ".serverversion").write_text("4")
    (folder / ".sqlite").touch()
    return folder


def begun(root: Path, kind: str, url: str) -> Serverdir:
    """Make a target that a clone of a kind has begun to fill."""
    serverdir = Serverdir(root / "new")
    serverdir.prepare()
    serverdir.remember_storage("ours")
    with SqliteStore(serverdir.root / ".sqlite", write=True, create=True) as store:
        store.prepare()
        store.put_source(Source(url, "primary", "ours", "sqlite", kind, "2026-11-22T11:39:23.000Z"))
    return serverdir


def refused(serverdir: Serverdir, sources: Sources, words: str) -> None:
    """Make sure that the clone is refused, and its plan with the same words, and nothing is written."""
    before = sorted(files_below(serverdir.root))
    work = (Seeding(sources, Seed.AUTO, ToolOptions()), Settings(patience=0.0), context())
    for act in (clone, forecast):
        with pytest.raises(TargetUnusable, match=words) as caught:
            act(serverdir, *work)
        assert caught.value.exit_code == 6
        assert "choose another --serverdir" in caught.value.hint
    with SqliteStore(serverdir.root / ".sqlite") as store:
        assert store.last_run() is None
    assert set(before) <= {*files_below(serverdir.root), ".replisync/lock"}
    assert not serverdir.files.exists()


@pytest.mark.parametrize("kind", [CHANGELOG, COPY])
def test_a_dump_is_not_taken_into_another_kind_of_clone(tmp_path: Path, dump: Path, kind: str) -> None:
    serverdir = begun(tmp_path, kind, "")
    refused(serverdir, Sources(dump=dump), "another kind of clone was begun there")


@pytest.mark.parametrize("kind", [CHANGELOG, COPY])
def test_a_standby_that_was_begun_does_not_become_a_server_of_its_own(
    tmp_path: Path, origin: Path, kind: str
) -> None:
    refused(
        begun(tmp_path, kind, NOWHERE), Sources(serverdir=origin), "begun as a standby, with --primary-url"
    )


def test_nor_does_one_that_was_begun_with_a_dump(tmp_path: Path, dump: Path) -> None:
    refused(begun(tmp_path, EXPORT, NOWHERE), Sources(dump=dump), "begun as a standby, with --primary-url")


@pytest.mark.parametrize("by", ["dump", "origin"])
def test_a_dump_that_was_taken_for_a_server_of_its_own_cannot_be_followed(
    tmp_path: Path, request: pytest.FixtureRequest, by: str
) -> None:
    path = request.getfixturevalue(by)
    sources = Sources(NOWHERE, dump=path, at_serial=3) if by == "dump" else Sources(NOWHERE, serverdir=path)
    refused(begun(tmp_path, EXPORT, ""), sources, "begun as a server of its own, without --primary-url")


@pytest.mark.parametrize(
    ("known", "kind", "followed"),
    [
        (None, EXPORT, True),
        (Identity("ours", "primary", NOWHERE, CHANGELOG), COPY, True),
        (Identity("ours", "primary", NOWHERE, COPY), CHANGELOG, True),
        (Identity("ours", "primary", NOWHERE, EXPORT), EXPORT, True),
        (Identity("ours", "primary", "", EXPORT), EXPORT, False),
        (Identity("ours", "primary", "", COPY), COPY, False),
        (Identity("ours", "primary", "", COPY), COPY, True),
    ],
)
def test_what_fits_together_goes_on(
    tmp_path: Path, known: Identity | None, kind: str, followed: bool
) -> None:
    """A copy is exact, whichever way: it may go on over the changelog, and follow a primary."""
    check_begun(Serverdir(tmp_path), known, kind, followed=followed)
