"""Files that are to go, where nothing can be moved: they stay, and what is to come must come."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import insert

from replisync.errors import NotPermitted
from replisync.replication.settle import Settler, settle
from replisync.standby.database import tables as t
from replisync.standby.database.sqlite import SqliteStore
from tests.edges.test_disk_files import CONTENT, PATH, Disk
from tests.fakes import RecordingLog
from tests.support.disk import SmallDisk, small_disk

NOBODY = 65_534


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of one MiB."""
    with small_disk(tmp_path / "disk", 1024) as disk:
        yield disk


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A database on another disk."""
    with closing(SqliteStore(tmp_path / ".sqlite", write=True, create=True)) as store:
        store.prepare()
        yield store


@pytest.mark.parametrize("retain", [True, False], ids=["retained", "removed"])
def test_what_cannot_be_put_away_is_told_once_and_tried_again(
    small: SmallDisk, store: SqliteStore, retain: bool
) -> None:
    disk, log = Disk(small.root / "target"), RecordingLog()
    disk.put()
    store.put_leftovers([PATH])
    settler = Settler(partial(settle, store, disk.files, retain=retain), log)
    small.protect()
    try:
        for _ in range(3):
            settler()
        assert [move.relpath for move in store.pending()] == [PATH]
    finally:
        small.unprotect()
    [(level, event, values)] = log.lines
    assert (level, event) == ("warning", "deleted files stay in place")
    assert values["files"] == 1
    assert f"the file system at {small.root} is read-only" in str(values["error"])
    assert f"mount -o remount,rw {small.root}" in str(values["error"])
    settler()
    assert store.pending() == []
    assert disk.files.size_of(PATH) is None


def test_what_cannot_be_put_away_keeps_nothing_else_in_its_place(
    small: SmallDisk, store: SqliteStore, tmp_path: Path
) -> None:
    disk = Disk(tmp_path / "target")
    disk.put("b/here")
    (tmp_path / "target/+files/a").symlink_to(small.root)
    (small.root / "there").write_bytes(b"x")
    store.put_leftovers(["a/there", "b/here"])
    small.protect()
    try:
        held = settle(store, disk.files, retain=False)
    finally:
        small.unprotect()
    assert held.keys() == {"a/there"}
    assert [move.relpath for move in store.pending()] == ["a/there"]
    assert disk.files.size_of("b/here") is None


def test_what_replaces_a_file_must_take_its_place(small: SmallDisk, store: SqliteStore) -> None:
    disk = Disk(small.root / "target")
    disk.put()
    staged = disk.files.receive(PATH, [b"new"], None, None).name
    with store._writing() as connection:
        row = {"relpath": PATH, "serial": 1, "action": "replace", "staged": staged}
        connection.execute(insert(t.pending).values(row))
    small.protect()
    try:
        with pytest.raises(NotPermitted, match="is read-only"):
            settle(store, disk.files, retain=True)
    finally:
        small.unprotect()
    assert settle(store, disk.files, retain=True) == {}
    assert disk.files.size_of(PATH) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_a_file_of_another_owner_is_retained_when_it_is_replaced() -> None:
    """The system may let us make no link to it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        disk = Disk(Path(name) / "target")
        disk.put()
        for path in Path(name).rglob("*"):
            os.chown(path, *((0, 0) if path.is_file() else (NOBODY, NOBODY)))
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                os.setgroups([])
                os.setresuid(NOBODY, NOBODY, NOBODY)
                code = 0 if disk.files.retain(PATH, 5, keep=True) else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        [retained] = disk.retained.iterdir()
        assert retained.read_bytes() == (disk.placed / PATH).read_bytes() == CONTENT
        assert list(disk.staging.iterdir()) == []
