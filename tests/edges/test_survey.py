"""What files on disk are, as one who verifies sees them."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from replisync.standby.files.hashing import Kind, Seen
from replisync.standby.files.survey import DiskSurvey

ODD = "root/é\n  %41.whl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files in four folders, beside a folder, a link, a pipe, and a file in the place of a folder."""
    folder = tmp_path / "+files"
    for name, data in (("a/b/one", b"one"), ("a/b/two", b"two2"), (ODD, b"odd")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o640)
        path.parent.chmod(0o700)
    (folder / "a").chmod(0o755)
    (folder / "a" / "link").symlink_to("b/one")
    os.mkfifo(folder / "a" / "pipe")
    return folder


@pytest.fixture
def survey(root: Path) -> DiskSurvey:
    """The survey of the files."""
    return DiskSurvey(root)


def seen(data: bytes, digest: str | None) -> Seen:
    return Seen(len(data), digest, 0, stat.S_IFREG | 0o640, None, os.getuid(), os.getgid())


def kind(mode: int) -> Kind:
    return Kind(stat.S_IFDIR | mode, os.getuid(), os.getgid())


def test_size_digest_mode_and_owner_of_files_are_found(survey: DiskSurvey) -> None:
    files = [("sha256", "a/b/one"), ("md5", "a/b/two"), ("", "a/b/two"), ("sha512", ODD)]
    assert survey.look_at(files).files == [
        seen(b"one", hashlib.sha256(b"one").hexdigest()),
        seen(b"two2", hashlib.md5(b"two2").hexdigest()),  # noqa: S324
        seen(b"two2", None),
        seen(b"odd", hashlib.sha512(b"odd").hexdigest()),
    ]


@pytest.mark.parametrize("algorithm", ["", "sha256"])
def test_what_is_no_file_has_no_size(survey: DiskSurvey, algorithm: str) -> None:
    names = ("a/b", "a/pipe", "a/none", "a/b/one/under", "a/" + "n" * 300, "a/b/one\0", "a/b/two\0md5")
    found = survey.look_at([(algorithm, name) for name in names]).files
    assert [one.size for one in found] == [None] * len(names)
    assert [one.problem for one in found[2:5]] == [errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG]


def test_a_link_is_no_file(survey: DiskSurvey) -> None:
    assert [one.size for one in survey.look_at([("", "a/link"), ("sha256", "a/link")]).files] == [None, None]


def test_each_kind_of_folder_that_files_are_in_is_told_once(survey: DiskSurvey) -> None:
    assert survey.look_at([("", "a/b/one"), ("", "a/b/two")]).folders == {kind(0o755), kind(0o700)}
    assert survey.look_at([("sha256", ODD)]).folders == {kind(0o700)}


def test_neither_links_nor_missing_folders_count_as_folders(survey: DiskSurvey, root: Path) -> None:
    (root / "elsewhere").symlink_to("a/b")
    found = survey.look_at([("", "elsewhere/one"), ("", "none/one"), ("", "one")])
    assert found.folders == frozenset()
