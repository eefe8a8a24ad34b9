"""The folder of a target: one writer at a time, devpi's small files whole, nothing of somebody else's."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replisync.devpi.nodeinfo import standby_nodeinfo
from replisync.devpi.storage import Storage
from replisync.errors import LocalFailure, TargetLocked, TargetUnusable
from replisync.seed.target import known_identity
from replisync.standby.serverdir import Serverdir
from replisync.system.durable import make_folder
from tests.support.waiting import wait_until

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from replisync.standby.serverdir import Serverdir
with Serverdir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def serverdir(tmp_path: Path) -> Serverdir:
    """A target that was begun."""
    serverdir = Serverdir(tmp_path / "target")
    serverdir.prepare()
    return serverdir


@contextmanager
def holder(serverdir: Serverdir) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(serverdir.root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


class TestLock:
    """One replisync at a time; the lock ends with its holder, however that ends."""

    def test_another_process_is_kept_out_and_named(self, serverdir: Serverdir) -> None:
        with holder(serverdir) as other:
            with pytest.raises(TargetLocked, match=f"process {other.pid}") as caught, serverdir.lock():
                pytest.fail("two writers")
            assert caught.value.exit_code == 6
            assert serverdir.locked_by() == str(other.pid)

    def test_a_holder_that_is_killed_lets_go(self, serverdir: Serverdir) -> None:
        with holder(serverdir) as other:
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert serverdir.locked_by() is None
            with serverdir.lock():
                assert serverdir.locked_by() == str(os.getpid())

    def test_a_holder_that_ends_lets_go(self, serverdir: Serverdir) -> None:
        for _ in range(2):
            with serverdir.lock():
                pass
        assert serverdir.locked_by() is None

    def test_the_lock_is_taken_by_one_of_two_in_one_process_too(self, serverdir: Serverdir) -> None:
        with serverdir.lock(), pytest.raises(TargetLocked), Serverdir(serverdir.root).lock():
            pytest.fail("two writers")

    def test_the_number_of_an_earlier_holder_does_not_stay(self, serverdir: Serverdir) -> None:
        (serverdir.own / "lock").write_text("123456789012345\n")
        with serverdir.lock():
            assert serverdir.locked_by() == str(os.getpid())

    def test_who_asks_for_the_holder_never_keeps_a_writer_out(self, serverdir: Serverdir) -> None:
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                serverdir.locked_by()

        with serverdir.lock():
            pass
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(200):
                with serverdir.lock():
                    pass
        finally:
            done.set()
            asking.join()

    def test_nobody_holds_the_lock_of_a_folder_that_has_none(self, tmp_path: Path) -> None:
        assert Serverdir(tmp_path / "nosuch").locked_by() is None


class TestSmallFiles:
    """devpi's small files are replaced in one step, and read with suspicion."""

    def test_what_is_written_is_what_a_replica_of_devpi_has(self, serverdir: Serverdir) -> None:
        serverdir.write_nodeinfo(standby_nodeinfo("ours", "theirs", "http://p/", before_6_13=False))
        assert json.loads((serverdir.root / ".nodeinfo").read_text()) == {
            "uuid": "ours",
            "role": "replica",
            "masterurl": "http://p",
            "primary-uuid": "theirs",
        }
        assert serverdir.role() == "replica"
        assert (serverdir.root / ".nodeinfo").stat().st_mode & 0o777 == 0o600

    def test_a_standby_of_an_old_primary_has_the_old_name_too(self) -> None:
        info = standby_nodeinfo("ours", "theirs", "http://p/", before_6_13=True)
        assert info["master-uuid"] == info["primary-uuid"] == "theirs"

    def test_the_version_and_the_event_serial_are_as_devpi_writes_them(self, serverdir: Serverdir) -> None:
        serverdir.write_serverversion()
        serverdir.write_event_serial(41)
        assert (serverdir.root / ".serverversion").read_text() == "4"
        assert (serverdir.root / ".event_serial").read_text() == "42"

    def test_without_a_nodeinfo_there_is_no_role(self, serverdir: Serverdir) -> None:
        assert serverdir.nodeinfo() is None
        assert serverdir.role() is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b'"replica"',
            b"5",
            b"null",
            b"\xff\xfe",
            b"\0" * 100,
            b"[" * 200_000,
            b"{}",
            b'{"uuid": "x"}',
        ],
        ids=lambda content: repr(content[:10]),
    )
    def test_a_nodeinfo_that_devpi_did_not_write_is_an_unusable_target(
        self, serverdir: Serverdir, content: bytes
    ) -> None:
        (serverdir.root / ".nodeinfo").write_bytes(content)
        with pytest.raises(TargetUnusable, match=r"nodeinfo"):
            serverdir.role()

    def test_a_nodeinfo_that_is_no_file_makes_the_target_unusable(self, serverdir: Serverdir) -> None:
        (serverdir.root / ".nodeinfo").mkdir()
        with pytest.raises(TargetUnusable, match="nodeinfo"):
            serverdir.nodeinfo()

    def test_a_reader_sees_the_old_content_or_the_new_and_never_half(self, serverdir: Serverdir) -> None:
        long, short = {"role": "replica", "x": "x" * 60_000}, {"role": "primary"}
        serverdir.write_nodeinfo(long)
        seen: set[str | None] = set()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                seen.add(serverdir.role())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for info in [short, long] * 100:
                serverdir.write_nodeinfo(info)
            wait_until(lambda: seen, 10, "the reader has read")
        finally:
            done.set()
            looking.join()
        assert seen <= {"replica", "primary"}

    def test_writing_leaves_no_other_file(self, serverdir: Serverdir) -> None:
        serverdir.write_nodeinfo({"role": "replica"})
        serverdir.write_serverversion()
        serverdir.write_event_serial(0)
        assert serverdir.foreign_content() == [".event_serial", ".nodeinfo", ".serverversion"]


class TestFolders:
    """What is ours, what is foreign, and what can be made."""

    def test_a_folder_is_made_with_its_parents(self, tmp_path: Path) -> None:
        serverdir = Serverdir(tmp_path / "a" / "b" / "c")
        assert not serverdir.is_ours()
        for _ in range(2):
            serverdir.prepare()
            assert serverdir.is_ours()
            assert serverdir.foreign_content() == []
            assert serverdir.tmp.is_dir()
            assert serverdir.retained.is_dir()

    def test_a_relative_folder_is_made_where_we_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Serverdir(Path("target")).prepare()
        assert (tmp_path / "target" / ".replisync" / "tmp").is_dir()

    def test_a_folder_of_somebody_else_is_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("x")
        (tmp_path / "lost+found").mkdir()
        assert Serverdir(tmp_path).foreign_content() == ["data"]

    def test_a_folder_that_is_not_there_has_nothing_foreign(self, tmp_path: Path) -> None:
        assert Serverdir(tmp_path / "nosuch").foreign_content() == []

    def test_a_file_in_the_place_of_the_folder_is_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("x")
        serverdir = Serverdir(tmp_path / "target")
        assert serverdir.foreign_content() == ["target"]
        with pytest.raises(LocalFailure, match="cannot create the serverdir"):
            serverdir.prepare()

    @pytest.mark.parametrize("mask", [0o000, 0o077, 0o277], ids=oct)
    def test_a_new_folder_is_its_owners_alone_whatever_the_umask(self, tmp_path: Path, mask: int) -> None:
        folder = tmp_path / "above/target"
        former = os.umask(mask & 0o077)
        folder.parent.mkdir()
        os.umask(mask)
        try:
            make_folder(folder, 0o700)
        finally:
            os.umask(former)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_folder_that_is_there_keeps_its_mode(self, tmp_path: Path) -> None:
        (tmp_path / "target").mkdir()
        (tmp_path / "target").chmod(0o751)
        Serverdir(tmp_path / "target").prepare()
        assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o751

    def test_a_folder_that_cannot_be_looked_into_is_a_local_failure(self) -> None:
        """It is not taken for one that is not there, or for somebody else's."""
        serverdir = Serverdir(Path("x" * 300))
        for look in (serverdir.is_ours, serverdir.has_database, serverdir.foreign_content):
            with pytest.raises(LocalFailure, match="File name too long"):
                look()

    def test_a_copy_without_empty_folders_gets_them_again(self, serverdir: Serverdir) -> None:
        serverdir.tmp.rmdir()
        serverdir.retained.rmdir()
        serverdir.make_own_folders()
        assert serverdir.tmp.is_dir()
        assert serverdir.retained.is_dir()


@pytest.mark.parametrize("content", [b"\xd0\xff\0", b"", b"oracle:x=1", b"pg8000:port=-1"])
def test_a_remembered_storage_that_we_did_not_write_is_an_unusable_target(
    serverdir: Serverdir, content: bytes
) -> None:
    (serverdir.own / "storage").write_bytes(content)
    with pytest.raises(TargetUnusable, match="not written by replisync"):
        serverdir.storage()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b"])
def test_a_path_in_which_devpi_server_would_not_find_its_database_is_refused(
    tmp_path: Path, name: str
) -> None:
    """It would start as an empty server there."""
    with pytest.raises(TargetUnusable, match="another, empty database"):
        Serverdir(tmp_path / name / "target").check_path()
    with pytest.raises(TargetUnusable):
        known_identity(Serverdir(tmp_path / name / "target"))
    assert not (tmp_path / name).exists()
    Serverdir(tmp_path / name, Storage.parse("pg8000:")).check_path()


@pytest.mark.parametrize("name", ["plain", "a b", "a%b", "a+b&c=d", "caf\u00e9"])
def test_other_paths_are_as_good_as_any(tmp_path: Path, name: str) -> None:
    Serverdir(tmp_path / name).check_path()
