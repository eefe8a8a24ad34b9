"""The swap of two standbys: whole under its name at each instant, and finished by whoever comes next."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from replisync.devpi.nodeinfo import standby_nodeinfo
from replisync.errors import LocalFailure, TargetUnusable
from replisync.operations.swap import Swap, SystemNames
from replisync.standby.serverdir import Serverdir
from tests.fakes import Died

OLD, NEW = "old-uuid", "new-uuid"
MOMENT = "20261125T100000Z"


class Failing(SystemNames):
    """The system's calls, of which one is the last that is made, or that fails.

    at: the number of that call; -1 for none.
    after: whether its work is still done.
    error: makes what it raises.
    """

    def __init__(
        self, at: int = -1, *, after: bool = False, error: Callable[[str], BaseException] = Died
    ) -> None:
        self.calls: list[str] = []
        self._at = at
        self._after = after
        self._error = error

    def _do(self, name: str, work: Callable[[], None]) -> None:
        self.calls.append(name)
        fails = len(self.calls) - 1 == self._at
        if not fails or self._after:
            work()
        if fails:
            raise self._error(name)

    def exchange(self, one: Path, other: Path) -> None:
        self._do("exchange", lambda: super(Failing, self).exchange(one, other))

    def rename(self, one: Path, other: Path) -> None:
        self._do("rename", lambda: super(Failing, self).rename(one, other))

    def write(self, path: Path, data: bytes) -> None:
        self._do("write", lambda: super(Failing, self).write(path, data))

    def remove(self, path: Path) -> None:
        self._do("remove", lambda: super(Failing, self).remove(path))

    def sync(self, folder: Path) -> None:
        self._do("sync", lambda: super(Failing, self).sync(folder))

    def give(self, folder: Path, like: os.stat_result) -> None:
        self._do("give", lambda: super(Failing, self).give(folder, like))


def make(root: Path, uuid: str) -> None:
    """Make what the swap looks at of a standby."""
    serverdir = Serverdir(root)
    serverdir.prepare()
    serverdir.write_nodeinfo(standby_nodeinfo(uuid, "primary", "http://localhost/", before_6_13=False))


def uuid_in(root: Path) -> str | None:
    """Return whose folder it is."""
    info = Serverdir(root).nodeinfo()
    return None if info is None else str(info["uuid"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A standby, with a new one beside it that is complete."""
    place = tmp_path / "standby"
    make(place, OLD)
    make(Swap(place).claim(OLD).root, NEW)
    return place


def names(folder: Path) -> dict[str, str | None]:
    """Return whose folders there are under which names."""
    return {path.name: uuid_in(path) for path in folder.iterdir()}


def test_the_new_one_takes_the_place_and_the_former_one_is_kept(place: Path) -> None:
    kept = Swap(place).exchange(OLD, MOMENT)
    assert kept.name == f"standby.replaced-{MOMENT}"
    assert names(place.parent) == {"standby": NEW, kept.name: OLD}
    assert not (place / ".replisync/reseed").exists()
    assert Swap(place).finish() is None


def test_the_new_one_has_the_mode_of_the_former_one(place: Path) -> None:
    place.chmod(0o751)
    Swap(place).exchange(OLD, MOMENT)
    assert place.stat().st_mode & 0o7777 == 0o751


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_the_new_one_and_all_that_is_made_in_it_belong_to_whom_the_former_one_belongs(
    place: Path,
) -> None:
    shutil.rmtree(Swap(place).new)
    for path in (place, *place.rglob("*")):
        os.chown(path, 12345, 12346)
    made = Swap(place).claim(OLD)
    made.write_nodeinfo(standby_nodeinfo(NEW, "primary", "http://localhost/", before_6_13=False))
    with made.lock():
        Swap(place).exchange(OLD, MOMENT)
    owners = {
        path.relative_to(place).as_posix(): (path.lstat().st_uid, path.lstat().st_gid)
        for path in (place, *place.rglob("*"))
    }
    assert {".", ".nodeinfo", ".replisync/tmp", ".replisync/lock"} <= set(owners)
    assert set(owners.values()) == {(12345, 12346)}


CALLS = ["write", "give", "exchange", "sync", "rename", "sync", "remove", "sync"]


@pytest.mark.parametrize("error", [Died, OSError], ids=["the process dies", "it fails"])
@pytest.mark.parametrize("after", [False, True], ids=["before the work", "after the work"])
@pytest.mark.parametrize("at", range(len(CALLS)))
def test_a_crash_at_any_call_leaves_the_old_one_or_the_new_one_whole(
    place: Path, at: int, after: bool, error: Callable[[str], BaseException]
) -> None:
    """The same command then ends what was begun."""
    failing = Failing(at, after=after, error=error)
    with pytest.raises((Died, LocalFailure)):
        Swap(place, failing).exchange(OLD, MOMENT)
    assert failing.calls == CALLS[: at + 1]
    swapped = at > CALLS.index("exchange") or (CALLS[at] == "exchange" and after)
    assert uuid_in(place) == (NEW if swapped else OLD)
    done = Swap(place).finish()
    if swapped and not (CALLS[at] == "remove" and after) and at < len(CALLS) - 1:
        assert done is not None
    if not swapped:
        assert done is None
        Swap(place).claim(OLD)
        Swap(place).exchange(OLD, MOMENT)
    assert names(place.parent) == {"standby": NEW, f"standby.replaced-{MOMENT}": OLD}
    assert not (place / ".replisync/reseed").exists()


def test_the_calls_are_those_that_are_broken_above(place: Path) -> None:
    failing = Failing()
    Swap(place, failing).exchange(OLD, MOMENT)
    assert failing.calls == CALLS


def test_a_link_to_a_standby_is_followed(place: Path, tmp_path: Path) -> None:
    """What is exchanged are the folders; whoever comes by the link finds the new one."""
    link = tmp_path / "link"
    link.symlink_to(place)
    Swap(link).exchange(OLD, MOMENT)
    assert uuid_in(link) == NEW


@pytest.mark.parametrize("mark", [None, {"of": "another", "kept": ""}])
def test_a_folder_that_is_in_the_way_is_left(place: Path, mark: object) -> None:
    """It may be anybody's, or have been begun for another standby."""
    path = place.with_name("standby.reseed") / ".replisync/reseed"
    path.unlink()
    if mark is not None:
        path.write_text(json.dumps(mark))
    with pytest.raises(TargetUnusable, match=r"standby\.reseed"):
        Swap(place).claim(OLD)
    assert uuid_in(path.parents[1]) == NEW


def test_a_mark_that_cannot_be_read_is_refused(place: Path) -> None:
    (place.with_name("standby.reseed") / ".replisync/reseed").write_text("[]")
    with pytest.raises(TargetUnusable, match="not written by replisync"):
        Swap(place).claim(OLD)


def test_who_exchanged_the_names_by_hand_is_not_in_the_way(place: Path) -> None:
    os.rename(place, place.with_name("elsewhere"))
    os.rename(place.with_name("standby.reseed"), place)
    assert Swap(place).finish() is None
    assert not (place / ".replisync/reseed").exists()


def test_where_names_cannot_be_exchanged_it_says_so_before_the_work_begins(place: Path) -> None:
    """As on a file system that does not know how."""

    before = names(place.parent)
    with pytest.raises(LocalFailure, match="exchange their names: Invalid argument"):
        Swap(place, Failing(0, error=lambda _name: OSError(22, "Invalid argument"))).check()
    assert names(place.parent) == before
    Swap(place).check()
    assert names(place.parent) == before


def test_a_mount_point_keeps_its_name() -> None:
    with pytest.raises(TargetUnusable, match="mount point"):
        Swap(Path("/proc")).check()
