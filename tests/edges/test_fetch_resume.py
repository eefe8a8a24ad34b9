"""A download whose connection breaks off goes on from there, and counts each byte once as progress."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replisync.changelog.plan import WantedFile
from replisync.changelog.ports import Download
from replisync.devpi.keys import Digest
from replisync.errors import PrimaryUnreachable
from replisync.replication.fetch import Fetched, Fetcher, Refused
from replisync.standby.files.disk import DiskFiles
from tests.fakes import RecordingStop

RELPATH = "u/dev/+f/aaa/a/a.zip"
CONTENT = bytes(range(256)) * 40


class Breaking:
    """A source whose connections break off after some bytes each.

    ranges: whether it delivers the rest of a file.
    other: another content that it delivers in the place of the rest.
    """

    def __init__(self, after: int, *, ranges: bool, other: bytes = CONTENT) -> None:
        self.after = after
        self.ranges = ranges
        self.other = other
        self.asked: list[int] = []

    @contextmanager
    def download(self, relpath: str, first: int = 0) -> Iterator[Download]:
        """Deliver some bytes."""
        assert relpath == RELPATH
        self.asked.append(first)
        partly = first > 0 and self.ranges
        content = self.other[first:] if partly else CONTENT
        yield Download(206 if partly else 200, len(content), self._break_off(content))

    def _break_off(self, content: bytes) -> Iterator[bytes]:
        yield content[: self.after]
        if len(content) > self.after:
            raise PrimaryUnreachable("cannot fetch it", "the connection was lost")

    def check(self) -> None:
        """Do nothing: it answers."""


@pytest.fixture
def files(tmp_path: Path) -> DiskFiles:
    for name in ("files", "tmp", "retained"):
        (tmp_path / name).mkdir()
    return DiskFiles(tmp_path / "files", tmp_path / "tmp", tmp_path / "retained")


def fetch(source: Breaking, files: DiskFiles, *, digest: bool = True) -> tuple[Fetcher, Fetched | Refused]:
    """Return the outcome of the file, and who fetched it."""
    known = Digest("sha256", hashlib.sha256(CONTENT).hexdigest()) if digest else None
    fetcher = Fetcher(source, files, threads=1, stop=RecordingStop())
    [outcome] = fetcher.fetch([WantedFile(RELPATH, 1, known)])
    return fetcher, outcome


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path, files: DiskFiles) -> None:
    source = Breaking(4000, ranges=True)
    fetcher, outcome = fetch(source, files)
    assert isinstance(outcome, Fetched)
    assert source.asked == [0, 4000, 8000]
    assert (tmp_path / "files" / RELPATH).read_bytes() == CONTENT
    assert fetcher.received == len(CONTENT)


def test_without_ranges_it_is_refused_and_the_same_bytes_are_no_progress(files: DiskFiles) -> None:
    source = Breaking(4000, ranges=False)
    fetcher, outcome = fetch(source, files)
    assert isinstance(outcome, Refused)
    assert source.asked == [0, 4000]
    assert fetcher.received == 4000
    assert isinstance(next(iter(fetcher.fetch([outcome.file]))), Refused)
    assert fetcher.received == 4000, "they arrived before"
    source.after = 5000
    list(fetcher.fetch([outcome.file]))
    assert fetcher.received == 5000


def test_a_rest_of_another_file_is_noticed(tmp_path: Path, files: DiskFiles) -> None:
    outcome = fetch(Breaking(6000, ranges=True, other=CONTENT[::-1]), files)[1]
    assert isinstance(outcome, Refused)
    assert outcome.costly
    assert not (tmp_path / "files" / RELPATH).exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_nothing_is_put_together_whose_digest_is_unknown(files: DiskFiles) -> None:
    source = Breaking(6000, ranges=True)
    assert isinstance(fetch(source, files, digest=False)[1], Refused)
    assert source.asked == [0]


def test_a_file_without_a_place_does_not_keep_others_from_theirs(tmp_path: Path, files: DiskFiles) -> None:
    """Also where the caller places them later, as retries of `follow` do."""
    (tmp_path / "files" / RELPATH).mkdir(parents=True)
    (tmp_path / "files" / RELPATH / "x").touch()
    known = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
    fetcher = Fetcher(
        Breaking(len(CONTENT), ranges=False), files, threads=1, stop=RecordingStop(), place="none"
    )
    [outcome] = fetcher.fetch([WantedFile(RELPATH, 1, known)])
    assert isinstance(outcome, Refused)
    assert outcome.status == 0
    assert list((tmp_path / "tmp").iterdir()) == []
