"""Disks that are full, protected or out of handles: a local failure with what to do, and nothing left."""

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replisync.changelog.plan import Batch
from replisync.changelog.records import Commit
from replisync.devpi.entries import ChangelogEntry
from replisync.devpi.nodeinfo import standby_nodeinfo
from replisync.errors import LocalFailure
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.opening import open_database
from replisync.standby.serverdir import Serverdir
from replisync.system.durable import trouble
from tests.edges.test_disk_files import PATH, SHA256, Disk
from tests.support.disk import SmallDisk, small_disk

KIB = 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of one MiB."""
    with small_disk(tmp_path / "disk", 1024) as disk:
        yield disk


class TestFullDisk:
    """A full disk is a local failure that says so; what was there stays, what was begun goes."""

    def test_a_file_that_does_not_fit_leaves_nothing(self, small: SmallDisk) -> None:
        disk = Disk(small.root / "target")
        disk.put()
        before = disk.listing()
        with pytest.raises(LocalFailure, match="No space left on device") as caught:
            disk.files.receive("a/large.zip", (b"x" * 64 * KIB for _ in range(100)), None, None)
        assert "the disk is full" in caught.value.hint
        assert "a/large.zip" in caught.value.attempted
        assert disk.listing() == before
        disk.put("a/small.zip")

    def test_devpis_small_files_keep_their_old_content(self, small: SmallDisk) -> None:
        serverdir = Serverdir(small.root / "target")
        serverdir.prepare()
        serverdir.write_nodeinfo(standby_nodeinfo("u", "p", "http://p/", before_6_13=False))
        before = serverdir.nodeinfo()
        small.fill(0)
        with pytest.raises(LocalFailure, match=r"cannot write .*nodeinfo: No space left"):
            serverdir.write_nodeinfo({"role": "primary"})
        assert serverdir.nodeinfo() == before
        assert serverdir.foreign_content() == [".nodeinfo"]

    def test_a_lock_that_cannot_be_written_says_so(self, small: SmallDisk) -> None:
        serverdir = Serverdir(small.root / "target")
        serverdir.prepare()
        small.fill(0)
        with pytest.raises(LocalFailure, match=r"cannot lock .*: No space left"), serverdir.lock():
            pass

    def test_whatever_call_it_hits_is_no_bug_of_ours(self) -> None:
        found = trouble(OSError(errno.ENOSPC, "No space left on device", "/d/x"), "cannot finish the run")
        assert found is not None
        assert str(found).startswith(
            "cannot finish the run: No space left on device (/d/x). The disk is full"
        )
        assert trouble(OSError(errno.EINVAL, "Invalid argument"), "cannot finish the run") is None
        assert trouble(ValueError(), "cannot finish the run") is None

    def test_a_commit_that_does_not_fit_is_none(self, small: SmallDisk) -> None:
        path = small.root / ".sqlite"
        with SqliteStore(path, write=True, create=True) as store:
            store.prepare()
            store.apply(commit(0, 10), 9, "2026-11-22T11:39:23Z")
            small.fill(64 * KIB)
            with pytest.raises(LocalFailure, match="full") as caught:
                store.apply(commit(1, 300 * KIB), 9, "2026-11-22T11:39:24Z")
            assert "the disk is full" in caught.value.hint
            assert store.last_serial() == 0
            (small.root / "filler").unlink()
            store.apply(commit(1, 300 * KIB), 9, "2026-11-22T11:39:25Z")
            assert store.last_serial() == 1

    def test_a_database_that_cannot_be_made_is_a_local_failure(self, small: SmallDisk) -> None:
        small.fill(0)
        with (
            pytest.raises(LocalFailure, match=r"full|unable to open"),
            SqliteStore(small.root / ".sqlite", write=True, create=True) as store,
        ):
            store.prepare()


def commit(serial: int, size: int) -> Commit:
    """Return a commit of one entry of so many bytes, which is none of devpi's."""
    batch = Batch(serial, serial)
    batch.add(ChangelogEntry(serial, {}, b"x" * size))
    return Commit(batch)


class TestProtectedDisk:
    """A file system that is read-only is named as what it is."""

    def test_files_cannot_be_written_moved_or_removed(self, small: SmallDisk) -> None:
        disk = Disk(small.root / "target")
        disk.put("dropped")
        aside = disk.files.retain("dropped", 4) or ""
        disk.put()
        staged = disk.files.receive("a", [b"a"], None, None).name
        before = disk.listing()
        small.protect()
        try:
            for act in (
                lambda: disk.files.receive("b", [b"b"], None, None),
                lambda: disk.files.place([("a", staged)]),
                lambda: disk.files.retain(PATH, 5),
                lambda: disk.files.retain(PATH, 5, keep=True),
                lambda: disk.files.remove(PATH),
                lambda: disk.files.clean_staging(()),
                lambda: disk.files.drop_retained([aside]),
            ):
                with pytest.raises(LocalFailure) as caught:
                    act()
                assert "read-only" in str(caught.value)
            assert disk.files.digest_of(PATH, "sha256") == SHA256.hexdigest
            assert disk.listing() == before
        finally:
            small.unprotect()

    def test_a_database_can_be_read_and_not_written(self, small: SmallDisk) -> None:
        path = small.root / ".sqlite"
        with SqliteStore(path, write=True, create=True) as store:
            store.prepare()
            store.apply(commit(0, 10), 0, "now")
            store.back_to_devpi()
        small.protect()
        try:
            with SqliteStore(path) as reader:
                assert reader.last_serial() == 0
            with pytest.raises(LocalFailure), SqliteStore(path, write=True) as store:
                store.apply(commit(1, 10), 1, "now")
        finally:
            small.unprotect()

    def test_a_database_at_rest_in_wal_mode_can_be_read(self, small: SmallDisk) -> None:
        """SQLite would make its log beside it, which nobody can here."""
        serverdir = Serverdir(small.root / "target")
        serverdir.prepare()
        with open_database(serverdir, write=True, create=True) as store:
            store.prepare()
            store.apply(commit(0, 10), 0, "now")
        assert not (serverdir.root / ".sqlite-wal").exists()
        small.protect()
        try:
            with open_database(serverdir) as reader:
                assert reader.last_serial() == 0
        finally:
            small.unprotect()

    def test_a_serverdir_cannot_be_made(self, small: SmallDisk) -> None:
        small.protect()
        try:
            with pytest.raises(LocalFailure, match="cannot create the serverdir") as caught:
                Serverdir(small.root / "target").prepare()
        finally:
            small.unprotect()
        assert "read-only" in str(caught.value)


OUT_OF_HANDLES = """
import json, os, resource, sys
from pathlib import Path
from replisync.errors import ReplisyncError
from replisync.standby.files.disk import DiskFiles
from replisync.standby.serverdir import Serverdir
from replisync.standby.database.sqlite import SqliteStore

root = Path(sys.argv[1])
serverdir = Serverdir(root)
files = DiskFiles(serverdir.files, serverdir.tmp, serverdir.retained)
name = files.receive("a", [b"a"], None, None).name
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass

def lock():
    with serverdir.lock():
        pass

said = {}
for what, act in {
    "receive": lambda: files.receive("b", [b"b"], None, None),
    "place": lambda: files.place([("a", name)]),
    "digest": lambda: files.digest_of("x/y", "md5"),
    "nodeinfo": lambda: serverdir.write_nodeinfo({}),
    "read": serverdir.nodeinfo,
    "lock": lock,
    "clean": lambda: files.clean_staging(()),
    "database": lambda: SqliteStore(root / ".sqlite", write=True).last_serial(),
}.items():
    try:
        act()
        said[what] = ["", ""]
    except ReplisyncError as err:
        said[what] = [type(err).__name__, err.hint]
os.closerange(min(held), max(held) + 1)
print(json.dumps(said))
"""


def test_running_out_of_file_handles_is_a_local_failure_that_says_so(tmp_path: Path) -> None:
    serverdir = Serverdir(tmp_path / "target")
    serverdir.prepare()
    serverdir.files.mkdir()
    serverdir.write_nodeinfo({"role": "replica"})
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_HANDLES, serverdir.root],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    database = said.pop("database")
    assert database[0] == "LocalFailure"
    for what, (error, hint) in said.items():
        assert error == "LocalFailure", what
        assert "ulimit -n" in hint, what
