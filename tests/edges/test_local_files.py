"""Files that lie on this machine: found in each kind of folder, and taken only with the right digest."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replisync.changelog.plan import WantedFile
from replisync.devpi.keys import Digest
from replisync.errors import UsageError
from replisync.standby.files.disk import DiskFiles
from replisync.standby.files.local import LocalFiles

CONTENT = b"what the changelog promises" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILED = f"+f/{SHA256[:3]}/{SHA256[3:16]}"
RELPATH = f"user/dev/{FILED}/pkg-1.0.zip"


def wanted(relpath: str = RELPATH, digest: Digest | None = Digest("sha256", SHA256)) -> WantedFile:  # noqa: B008
    return WantedFile(relpath, 3, digest)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def dump(root: Path, *items: dict[str, Any]) -> Path:
    """Write a dump whose index names these files."""
    index = {"users": {}, "indexes": {"user/dev": {"files": items}}, "dumpversion": "2"}
    put(root / "dataindex.json", json.dumps(index).encode())
    return root


def found(folder: Path, file: WantedFile | None = None) -> list[str]:
    """Return the files below a folder where one is looked for."""
    paths = LocalFiles([folder]).paths(file or wanted())
    return [os.path.relpath(path, folder) for path in paths if os.path.isfile(path)]


@pytest.fixture
def disk(tmp_path: Path) -> DiskFiles:
    files, staging, retained = (tmp_path / "target" / name for name in ("files", "staging", "retained"))
    for folder in (files, staging, retained):
        folder.mkdir(parents=True)
    return DiskFiles(files, staging, retained)


def staged(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "target" / "staging").iterdir())


# Where files are looked for.


@pytest.mark.parametrize("place", ["serverdir/+files", "old"])
@pytest.mark.parametrize(
    "relpath", [RELPATH, f"other/index/{FILED}/renamed.zip", f"{RELPATH}-{'a' * 64}-tmp"]
)
def test_a_file_is_found_by_its_digest_wherever_devpi_filed_it(
    tmp_path: Path, place: str, relpath: str
) -> None:
    """In a serverdir or its +files; by its own path, in another index, or under a temporary name."""
    put(tmp_path / place / relpath)
    folder = tmp_path / place.partition("/")[0]
    assert found(folder) == [os.path.relpath(tmp_path / place / relpath, folder)]


@pytest.mark.parametrize(
    "meta",
    [
        {"hashes": {"sha256": SHA256}},
        {"hash_spec": f"sha256={SHA256}"},
        {"hash_spec": "md5=00", "hashes": {"md5": "00", "sha256": SHA256}},
    ],
)
def test_a_file_of_a_dump_is_found_by_what_its_index_says(tmp_path: Path, meta: dict[str, Any]) -> None:
    put(tmp_path / "user/dev/pkg/1.0/other-name.zip")
    dump(tmp_path, {"relpath": "user/dev/pkg/1.0/other-name.zip", "entrymapping": meta})
    assert found(tmp_path) == ["user/dev/pkg/1.0/other-name.zip"]
    assert found(tmp_path, wanted(digest=Digest("sha256", "0" * 64))) == []


def test_a_dump_of_devpi_2_1_has_md5_alone(tmp_path: Path) -> None:
    put(tmp_path / "a")
    dump(tmp_path, {"relpath": "a", "entrymapping": {"md5": "ABCDEF00"}})
    assert found(tmp_path, wanted(digest=Digest("md5", "abcdef00"))) == ["a"]


@pytest.mark.parametrize("relpath", ["../secret", "/etc/passwd", "a/../../secret"])
def test_the_index_of_a_dump_cannot_lead_out_of_it(tmp_path: Path, relpath: str) -> None:
    put(tmp_path / "secret")
    dump(tmp_path / "dump", {"relpath": relpath, "entrymapping": {"hashes": {"sha256": SHA256}}})
    assert list(LocalFiles([tmp_path / "dump"]).paths(wanted())) == []


@pytest.mark.parametrize("text", ["", "[", "{}", '"dumpversion"', "[" * 100_000])
def test_what_is_no_index_of_a_dump_is_refused(tmp_path: Path, text: str) -> None:
    put(tmp_path / "dataindex.json", text.encode())
    with pytest.raises(UsageError, match="not an index of devpi-export"):
        LocalFiles([tmp_path])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        LocalFiles([tmp_path / "missing"])


def test_without_a_digest_only_the_primarys_own_files_are_taken(tmp_path: Path) -> None:
    """Nothing could prove that a file of another folder is the one that is wanted."""
    path = put(tmp_path / "+files/user/mirror/+e/host/a.zip")
    file = wanted("user/mirror/+e/host/a.zip", None)
    assert found(tmp_path, file) == []
    assert list(LocalFiles([], own=tmp_path / "+files").paths(file)) == [str(path)]


# How they are taken.


@pytest.mark.parametrize("link", [False, True])
def test_a_file_is_taken_with_its_digest(tmp_path: Path, disk: DiskFiles, link: bool) -> None:
    """Copied or linked, it has no name in the target before it is placed."""
    source = put(tmp_path / "source")
    arrived = disk.take(RELPATH, str(source), Digest("sha256", SHA256), link=link)
    assert arrived is not None
    assert (arrived.size, arrived.sha256) == (len(CONTENT), SHA256)
    assert disk.size_of(RELPATH) is None
    disk.place([(RELPATH, arrived.name)])
    target = tmp_path / "target/files" / RELPATH
    assert target.read_bytes() == CONTENT
    assert target.samefile(source) is link
    assert staged(tmp_path) == []


def test_a_digest_of_another_kind_is_checked_too(tmp_path: Path, disk: DiskFiles) -> None:
    source = put(tmp_path / "source")
    right = Digest("md5", hashlib.md5(CONTENT, usedforsecurity=False).hexdigest())
    arrived = disk.take(RELPATH, str(source), right, link=False)
    assert arrived is not None
    assert arrived.sha256 == SHA256
    assert disk.take(RELPATH, str(source), Digest("md5", "0" * 32), link=True) is None


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("size", [0, 10, len(CONTENT)])
def test_what_has_another_digest_is_not_taken(tmp_path: Path, disk: DiskFiles, size: int, link: bool) -> None:
    source = put(tmp_path / "source", b"x" * size)
    assert disk.take(RELPATH, str(source), Digest("sha256", SHA256), link=link) is None
    assert staged(tmp_path) == []
    assert source.stat().st_nlink == 1


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _symbolic_link(path: Path) -> None:
    path.symlink_to(put(path.with_name("elsewhere")))


def _nothing(_path: Path) -> None:
    pass


@pytest.mark.parametrize("make", [_folder, _pipe, _symbolic_link, _nothing])
@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_plain_file_is_not_taken(
    tmp_path: Path, disk: DiskFiles, make: Callable[[Path], None], link: bool
) -> None:
    make(tmp_path / "source")
    assert disk.take(RELPATH, str(tmp_path / "source"), Digest("sha256", SHA256), link=link) is None
    assert staged(tmp_path) == []


def test_what_an_interrupted_run_left_is_no_obstacle(tmp_path: Path, disk: DiskFiles) -> None:
    source = put(tmp_path / "source")
    for link in (True, False, True):
        arrived = disk.take(RELPATH, str(source), Digest("sha256", SHA256), link=link)
        assert arrived is not None
    assert len(staged(tmp_path)) == 1


def test_many_files_are_placed_together(tmp_path: Path, disk: DiskFiles) -> None:
    """From some number on the file system is synced as a whole."""
    moves = []
    for number in range(200):
        content = b"%d" % number
        digest = hashlib.sha256(content).hexdigest()
        relpath = f"u/i/+f/{digest[:3]}/{digest[3:16]}/a-{number}.zip"
        arrived = disk.take(
            relpath, str(put(tmp_path / f"s/{number}", content)), Digest("sha256", digest), link=False
        )
        assert arrived is not None
        moves.append((relpath, arrived.name))
    disk.place(moves)
    assert [disk.size_of(relpath) for relpath, _ in moves] == [len(b"%d" % n) for n in range(200)]
