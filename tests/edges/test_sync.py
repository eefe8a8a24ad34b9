"""Many files are made durable in one call only where the system is sure to do that and to say how it went."""

import ctypes
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replisync.standby.files.sync import Syncer
from tests.edges.test_disk_files import calls

EXT4, TMPFS = 0xEF53, 0x01021994


class System:
    """A C library whose file system is of some kind, and whose syncs may fail."""

    def __init__(self, kind: int = EXT4, error: int = 0) -> None:
        self.kind = kind
        self.error = error
        self.syncs = 0

    def statfs(self, folder: bytes, found: Any) -> int:
        """Say of which kind the file system is."""
        assert folder
        ctypes.c_long.from_buffer(found).value = self.kind
        return 0

    def syncfs(self, fd: int) -> int:
        """Count a sync of all."""
        assert fd > 0
        self.syncs += 1
        ctypes.set_errno(self.error)
        return -1 if self.error else 0


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Files that were just written."""
    found = [tmp_path / str(number) for number in range(8)]
    for path in found:
        path.write_bytes(b"x")
    return list(map(str, found))


def syncer(folder: Path, system: System) -> Syncer:
    """Return one that is ready."""
    made = Syncer(str(folder), system)
    made.begin()
    return made


def synced(act: Callable[[], object]) -> list[str]:
    """Return the names of the files that an act syncs, each by itself."""
    return [about for call, about in calls(act) if call == "fsync"]


def test_many_files_are_synced_in_one_call(tmp_path: Path, paths: list[str]) -> None:
    system = System()
    assert synced(lambda: syncer(tmp_path, system).contents(paths)) == []
    assert system.syncs == 1


def test_few_files_do_not_wait_for_what_others_write(tmp_path: Path, paths: list[str]) -> None:
    system = System()
    assert synced(lambda: syncer(tmp_path, system).contents(paths[:7])) == list("0123456")
    assert system.syncs == 0


@pytest.mark.parametrize("kind", [TMPFS, 0x6969, 0x65735546], ids=["tmpfs", "NFS", "FUSE"])
def test_each_file_is_synced_where_nobody_knows_what_a_sync_of_all_does(
    tmp_path: Path, paths: list[str], kind: int
) -> None:
    system = System(kind)
    assert len(synced(lambda: syncer(tmp_path, system).contents(paths))) == len(paths)
    assert system.syncs == 0


def test_each_file_is_synced_where_nobody_watched_since_before_it_was_written(
    tmp_path: Path, paths: list[str]
) -> None:
    assert len(synced(lambda: Syncer(str(tmp_path), System()).contents(paths))) == len(paths)


def test_a_system_without_that_call_is_served_too(tmp_path: Path, paths: list[str]) -> None:
    made = Syncer(str(tmp_path), object())
    made.begin()
    assert len(synced(lambda: made.contents(paths))) == len(paths)


def test_data_that_could_not_be_written_is_an_error(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        syncer(tmp_path, System(error=errno.EIO)).contents(paths)
    assert caught.value.errno == errno.EIO


def test_the_system_of_this_machine_can_be_asked(tmp_path: Path, paths: list[str]) -> None:
    made = Syncer(str(tmp_path))
    made.begin()
    made.contents(paths)
    made.names([str(tmp_path)] * 8)


def test_a_whole_tree_is_synced_in_one_call(tmp_path: Path, paths: list[str]) -> None:
    """However few files it has: nobody knows how many those are."""
    assert paths
    system = System()
    assert synced(lambda: syncer(tmp_path, system).tree(str(tmp_path))) == []
    assert system.syncs == 1


def test_each_file_and_folder_of_a_tree_is_synced_where_that_is_not_possible(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/b/one", "a/two"):
        (tmp_path / name).write_bytes(b"x")
    found = synced(lambda: syncer(tmp_path, System(TMPFS)).tree(str(tmp_path)))
    assert sorted(found) == sorted(["one", "two", "a", "b", tmp_path.name])


def test_a_tree_that_cannot_be_read_is_not_taken_for_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        syncer(tmp_path, System(TMPFS)).tree(str(tmp_path / "none"))
