"""Files on disk: all of a file under its name, or nothing; durable in the right order; nothing left."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replisync.devpi.keys import Digest
from replisync.errors import BrokenStream, LocalFailure, WrongContent
from replisync.standby.files.disk import DiskFiles
from replisync.system.durable import write_file
from tests.support.content import ODD_NAMES

CONTENT = bytes(range(256)) * 100
SHA256 = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
PATH = "root/dev/+f/abc/def0123456789/pkg-1.0.zip"


class Disk:
    """The folders of a target, and the file store on them."""

    def __init__(self, root: Path) -> None:
        self.placed = root / "+files"
        self.staging = root / "tmp"
        self.retained = root / "retained"
        for folder in (self.placed, self.staging, self.retained):
            folder.mkdir(parents=True)
        self.files = DiskFiles(self.placed, self.staging, self.retained)

    def put(self, relpath: str = PATH, content: bytes = CONTENT) -> str:
        """Receive and place a file; return its name in the staging folder."""
        name = self.files.receive(relpath, [content], None, None).name
        self.files.place([(relpath, name)])
        return name

    def listing(self) -> dict[str, bytes]:
        """Return all files, by their paths below the root."""
        root = self.placed.parent
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """An empty target."""
    return Disk(tmp_path)


class TestReceiving:
    """What arrives is written to the staging folder and checked."""

    @pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512", "sha1", "blake2b", "sha3_256"])
    def test_a_file_with_the_right_digest_and_length_is_there(self, disk: Disk, algorithm: str) -> None:
        digest = Digest(algorithm, hashlib.new(algorithm, CONTENT).hexdigest())
        got = disk.files.receive(PATH, [CONTENT[:1000], b"", CONTENT[1000:]], digest, len(CONTENT))
        assert got.size == len(CONTENT)
        assert got.sha256 == SHA256.hexdigest
        assert disk.listing() == {f"tmp/{got.name}": CONTENT}
        assert disk.files.staged(got.name)
        assert disk.files.size_of(PATH) is None

    def test_an_empty_file_is_a_file(self, disk: Disk) -> None:
        got = disk.files.receive(PATH, [], Digest("sha256", hashlib.sha256().hexdigest()), 0)
        disk.files.place([(PATH, got.name)])
        assert disk.files.size_of(PATH) == 0

    @pytest.mark.parametrize(
        ("digest", "length"),
        [
            (Digest("sha256", "0" * 64), None),
            (Digest("md5", SHA256.hexdigest[:32]), None),
            (SHA256, len(CONTENT) + 1),
            (SHA256, len(CONTENT) - 1),
            (SHA256, 0),
            (None, len(CONTENT) + 1),
        ],
    )
    def test_a_file_that_is_not_the_promised_one_leaves_nothing(
        self, disk: Disk, digest: Digest | None, length: int | None
    ) -> None:
        with pytest.raises(WrongContent, match=r"pkg-1\.0\.zip") as caught:
            disk.files.receive(PATH, [CONTENT], digest, length)
        assert caught.value.transient
        assert disk.listing() == {}

    @pytest.mark.parametrize(
        "error", [BrokenStream("fetch", "reset"), KeyboardInterrupt(), ValueError("bug")]
    )
    def test_a_source_that_breaks_off_leaves_nothing(self, disk: Disk, error: BaseException) -> None:
        def chunks() -> Iterator[bytes]:
            yield CONTENT
            raise error

        with pytest.raises(type(error)):
            disk.files.receive(PATH, chunks(), SHA256, None)
        assert disk.listing() == {}

    def test_what_an_interrupted_run_left_under_the_same_name_does_not_matter(self, disk: Disk) -> None:
        name = disk.files.receive(PATH, [b"much longer than the content" * 5000], None, None).name
        assert disk.files.receive(PATH, [CONTENT], SHA256, None).name == name
        assert disk.listing() == {f"tmp/{name}": CONTENT}

    def test_a_link_in_the_staging_folder_is_never_followed(self, disk: Disk, tmp_path: Path) -> None:
        name = disk.files.receive(PATH, [b"x"], None, None).name
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        (disk.staging / name).unlink()
        for link in (os.symlink, os.link):
            link(victim, disk.staging / name)
            disk.files.receive(PATH, [CONTENT], SHA256, None)
            assert victim.read_bytes() == b"precious"
            (disk.staging / name).unlink()

    def test_a_long_file_is_streamed_and_not_held(self, disk: Disk) -> None:
        seen = 0

        def chunks() -> Iterator[bytes]:
            nonlocal seen
            for number in range(64):
                if number:
                    (path,) = disk.staging.iterdir()
                    assert path.stat().st_size == number * 65536
                    seen += 1
                yield bytes([number]) * 65536

        assert disk.files.receive(PATH, chunks(), None, None).size == 64 * 65536
        assert seen == 63


class TestPlacing:
    """A file gets its name in one step; folders are made as they are needed."""

    @pytest.mark.parametrize("name", [*ODD_NAMES, "a" * 255, "é" * 127, "日本語.zip", "x\ny.zip", "-rf *"])
    def test_any_name_is_the_name_on_disk(self, disk: Disk, name: str) -> None:
        relpath = f"root/dev/+f/abc/def/{name}"
        disk.put(relpath)
        assert disk.listing() == {f"+files/{relpath}": CONTENT}
        assert disk.files.size_of(relpath) == len(CONTENT)
        assert disk.files.digest_of(relpath, "sha256") == SHA256.hexdigest

    def test_what_had_the_name_is_replaced(self, disk: Disk) -> None:
        disk.put(content=b"old")
        disk.put()
        assert disk.listing() == {f"+files/{PATH}": CONTENT}

    def test_a_file_where_a_folder_must_be_is_a_failure_that_is_named(self, disk: Disk) -> None:
        disk.put("root/dev")
        name = disk.files.receive(PATH, [CONTENT], None, None).name
        with pytest.raises(LocalFailure, match=r"cannot place root/dev/\+f"):
            disk.files.place([(PATH, name)])

    def test_what_is_not_there_cannot_be_placed(self, disk: Disk) -> None:
        with pytest.raises(LocalFailure):
            disk.files.place([(PATH, "nosuch")])

    def test_a_file_in_place_has_size_and_digest(self, disk: Disk) -> None:
        disk.put()
        assert disk.files.size_of(PATH) == len(CONTENT)
        assert disk.files.digest_of(PATH, "md5") == hashlib.md5(CONTENT).hexdigest()  # noqa: S324

    @pytest.mark.parametrize("relpath", ["nosuch", "no/such", f"{PATH}/below"])
    def test_a_file_that_is_not_there_has_neither(self, disk: Disk, relpath: str) -> None:
        disk.put()
        assert disk.files.size_of(relpath) is None
        assert disk.files.digest_of(relpath, "sha256") is None

    @pytest.mark.parametrize("relpath", ["/".join(["x" * 250] * 20), "x" * 300])
    def test_a_path_that_the_disk_cannot_have_is_not_there_and_cannot_be_placed(
        self, disk: Disk, relpath: str
    ) -> None:
        assert disk.files.size_of(relpath) is None
        name = disk.files.receive(relpath, [b"x"], None, None).name
        with pytest.raises(LocalFailure, match="File name too long"):
            disk.files.place([(relpath, name)])


class TestRetaining:
    """What a serial drops or replaces is kept aside; each move can be repeated."""

    def test_a_dropped_file_moves(self, disk: Disk) -> None:
        disk.put()
        name = disk.files.retain(PATH, 5)
        assert disk.listing() == {f"retained/{name}": CONTENT}
        assert disk.files.retain(PATH, 5) == name
        assert disk.listing() == {f"retained/{name}": CONTENT}

    def test_a_replaced_file_stays_in_its_place_until_the_new_one_takes_it(self, disk: Disk) -> None:
        disk.put()
        name = disk.files.retain(PATH, 5, keep=True)
        assert disk.listing() == {f"retained/{name}": CONTENT, f"+files/{PATH}": CONTENT}
        disk.put(content=b"new")
        assert disk.files.retain(PATH, 5, keep=True) == name
        assert disk.listing() == {f"retained/{name}": CONTENT, f"+files/{PATH}": b"new"}

    @pytest.mark.parametrize("keep", [False, True])
    def test_where_there_is_no_file_nothing_is_kept(self, disk: Disk, keep: bool) -> None:
        assert disk.files.retain(PATH, 5, keep=keep) is None
        assert disk.listing() == {}

    def test_names_tell_serials_and_files_apart(self, disk: Disk) -> None:
        names = set()
        for serial, relpath in ((5, "a"), (6, "a"), (5, "b")):
            disk.put(relpath)
            names.add(disk.files.retain(relpath, serial))
        assert len(names) == len(disk.listing()) == 3

    def test_removing_can_be_repeated(self, disk: Disk) -> None:
        disk.put()
        for _ in range(2):
            disk.files.remove(PATH)
            assert disk.listing() == {}
        disk.files.remove(f"{PATH}/below/it")

    def test_what_was_kept_can_be_forgotten_and_forgotten_again(self, disk: Disk) -> None:
        disk.put()
        name = disk.files.retain(PATH, 5)
        assert name is not None
        for _ in range(2):
            disk.files.drop_retained([name, "nosuch"])
            assert disk.listing() == {}

    def test_staging_is_cleaned_but_for_what_is_still_needed(self, disk: Disk) -> None:
        kept = disk.files.receive("a", [b"a"], None, None).name
        left = disk.files.receive("b", [b"b"], None, None).name
        disk.files.clean_staging([kept, "nosuch"])
        assert disk.files.staged(kept)
        assert not disk.files.staged(left)
        assert disk.listing() == {f"tmp/{kept}": b"a"}


def calls(act: Callable[[], object]) -> list[tuple[str, str]]:
    """Return the system's calls that an act makes, in order, each with the file or folder that it is about.

    The interpreter itself reports the calls of built-in functions; nothing is put in their place.
    """
    seen: list[tuple[str, str]] = []

    def watch(frame: object, event: str, called: object) -> None:
        name = getattr(called, "__name__", "")
        if event != "c_call" or name not in (
            "write",
            "fsync",
            "rename",
            "replace",
            "link",
            "unlink",
            "mkdir",
        ):
            return
        about = ""
        if name == "fsync":
            values = frame.f_locals  # type: ignore[attr-defined]
            fd = values["fd"] if "fd" in values else values["file"].fileno()
            about = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        seen.append((name, about))

    sys.setprofile(watch)
    try:
        act()
    finally:
        sys.setprofile(None)
    return seen


class TestOrder:
    """Content is on disk before its name is, and the name is before anybody relies on it."""

    def test_contents_are_synced_before_the_first_of_them_gets_its_name(self, disk: Disk) -> None:
        disk.put("a/b/there")
        names = [disk.files.receive(path, [b"x"], None, None).name for path in ("a/b/c.zip", "a/b/d.zip")]
        made = calls(lambda: disk.files.place([("a/b/c.zip", names[0]), ("a/b/d.zip", names[1])]))
        assert made == [
            ("fsync", names[0]),
            ("fsync", names[1]),
            ("rename", ""),
            ("rename", ""),
            ("fsync", "b"),
        ]

    def test_what_is_held_is_synced_and_so_is_its_name(self, disk: Disk) -> None:
        name = disk.files.receive(PATH, [b"x"], None, None).name
        assert calls(lambda: disk.files.hold([name])) == [("fsync", name), ("fsync", "tmp")]

    def test_each_new_folder_is_synced_in_its_parent_and_the_name_in_its_folder(self, disk: Disk) -> None:
        name = disk.files.receive("a/b/c.zip", [b"x"], None, None).name
        made = calls(lambda: disk.files.place([("a/b/c.zip", name)]))
        renamed = max(index for index, (call, _) in enumerate(made) if call == "rename")
        assert made[renamed:] == [("rename", ""), ("fsync", "+files"), ("fsync", "a"), ("fsync", "b")]

    def test_a_folder_that_somebody_else_made_is_synced_too(self, disk: Disk) -> None:
        disk.put("a/b/c.zip")
        again = DiskFiles(disk.placed, disk.staging, disk.retained)
        name = again.receive("a/b/d.zip", [b"x"], None, None).name
        made = calls(lambda: again.place([("a/b/d.zip", name)]))
        assert made[2:] == [("fsync", "+files"), ("fsync", "a"), ("fsync", "b")]

    def test_a_folder_that_is_made_anew_is_synced_anew(self, disk: Disk) -> None:
        disk.put("a/b/c.zip")
        shutil.rmtree(disk.placed / "a")
        name = disk.files.receive("a/b/c.zip", [b"x"], None, None).name
        made = calls(lambda: disk.files.place([("a/b/c.zip", name)]))
        assert made[-3:] == [("fsync", "+files"), ("fsync", "a"), ("fsync", "b")]

    def test_a_move_aside_is_durable_in_both_folders_the_new_name_first(self, disk: Disk) -> None:
        disk.put("a/b/c.zip")
        made = calls(lambda: disk.files.retain("a/b/c.zip", 5, keep=True))
        assert made == [("link", ""), ("fsync", "retained")]
        assert calls(lambda: disk.files.retain("a/b/c.zip", 6)) == [("rename", "")]
        assert calls(disk.files.sync_moves) == [("fsync", "retained"), ("fsync", "b")]

    def test_a_removal_is_durable(self, disk: Disk) -> None:
        disk.put("a/b/c.zip")
        disk.files.remove("a/b/c.zip")
        assert calls(disk.files.sync_moves)[-1] == ("fsync", "b")

    def test_many_moves_are_made_durable_at_the_price_of_few(self, disk: Disk) -> None:
        """An index that is deleted may have any number of files, each with a folder of its own."""
        for number in range(20):
            disk.put(f"a/{number}/c.zip")
        for number in range(20):
            disk.files.retain(f"a/{number}/c.zip", 5)
        made = calls(disk.files.sync_moves)
        assert len(made) in (1, 21), "one, or one for each folder where the file system cannot do better"
        assert calls(disk.files.sync_moves) == []

    def test_a_small_file_of_devpis_is_replaced_in_one_step(self, tmp_path: Path) -> None:
        path = tmp_path / ".nodeinfo"
        made = calls(lambda: write_file(path, b"{}"))
        assert [call for call, _ in made if call not in ("write", "unlink")] == ["fsync", "replace", "fsync"]
        assert made[-1] == ("fsync", tmp_path.name)
        assert path.read_bytes() == b"{}"
        assert [entry.name for entry in tmp_path.iterdir()] == [".nodeinfo"]
