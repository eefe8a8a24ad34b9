"""A standby of another user than root: root's commands leave nothing of root's, and what they left once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from replisync.errors import NotPermitted
from replisync.standby.files.disk import DiskFiles
from replisync.standby.serverdir import Serverdir
from replisync.verify.checks.modes import grant, wrong_modes
from tests.faults.conftest import NOBODY, World, give_to_nobody
from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.disk import small_disk
from tests.support.runs import Background, Outcome, run_apart, run_here
from tests.support.snapshot import last_serial

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files that others own")

PROJECT = "of-root"


@dataclass
class Owned:
    """A standby of NOBODY, at the serial of a primary that may be changed."""

    world: World
    target: Path
    secret: Path
    primary: Server
    client: Client

    def as_root(self, command: str, *more: object, code: int = 0) -> Outcome:
        """Run a command as root."""
        return run_here(command, *self._options(command, self.world.secretfile), *more, code=code)

    def as_owner(self, command: str, *more: object, code: int = 0) -> Outcome:
        """Run a command as the owner of the standby."""
        program = give_to_nobody(self.secret)
        return run_apart(command, *self._options(command, self.secret), *more, code=code, program=program)

    def _options(self, command: str, secret: Path) -> tuple[object, ...]:
        if command in ("promote", "status"):
            return ("--serverdir", self.target)
        return ("--serverdir", self.target, "--secretfile", secret)

    def upload(self, content: bytes = b"1") -> None:
        """Upload a file to the primary."""
        self.client.upload_wheel("alice/dev", PROJECT, "1.0", content)

    def folders(self) -> list[Path]:
        """Return the folders that the file of `upload` alone is in, the innermost first."""
        [file] = self.target.rglob("of_root-1.0*")
        return [file.parent, file.parent.parent]

    def leave_to_root(self) -> None:
        """Leave the folders of that file as a former version of ours did, when root ran it."""
        for folder in self.folders():
            os.chown(folder, 0, 0)
            folder.chmod(0o755)

    def strange(self) -> set[str]:
        """Return the paths that are not the owner's."""
        return {str(path) for path in self.target.rglob("*") if path.lstat().st_uid != NOBODY}


@pytest.fixture
def owned(world: World, shared_folder: Path) -> Iterator[Owned]:
    """A standby of NOBODY."""
    target = Path(shutil.copytree(world.standby("template"), shared_folder / "standby", symlinks=True))
    give_to_nobody(target)
    with world.lead_to(world.copied()) as primary, Client(primary.url) as client:
        client.login("alice", "secret")
        yield Owned(world, target, shared_folder / "of-nobody/secret", primary, client)


@contextmanager
def served(owned: Owned) -> Iterator[Client]:
    """Start devpi-server on the standby, which was promoted, as its owner."""
    server = Server(owned.target, secretfile=owned.secret, user=NOBODY)
    with server, Client(server.url) as client:
        yield client.login("alice", "secret")


def test_all_that_root_makes_is_the_owners(owned: Owned) -> None:
    owned.upload()
    owned.as_root("catchup")
    assert owned.strange() == set()
    owned.upload(b"replaced")
    owned.client.delete_project("alice/dev", "late")
    with Background(owned.world.folder / "log", "follow", *owned.world.options(owned.target)) as follower:
        follower.wait_for(lambda: last_serial(owned.target) == owned.primary.serial(), "it has caught up")
        assert owned.strange() == set()
        follower.stop()
    owned.as_root("verify", "--repair")
    assert len(list((owned.target / ".replisync/retained").iterdir())) > 2
    assert owned.strange() == set()
    owned.client.delete_project("alice/dev", PROJECT)
    owned.as_owner("catchup")
    assert list(owned.target.rglob("of_root-1.0*")) == []
    owned.as_root("promote")
    assert owned.strange() == set()
    with served(owned) as client:
        client.upload_wheel("alice/dev", PROJECT, "2.0", b"2")
        client.delete_project("alice/dev", PROJECT)


def test_a_clone_of_root_into_a_folder_of_another_user_is_that_users(
    world: World, shared_folder: Path
) -> None:
    target = shared_folder / "standby"
    target.mkdir()
    give_to_nobody(target)
    run_here("clone", *world.new(target))
    assert {path.lstat().st_uid for path in (target, *target.rglob("*"))} == {NOBODY}


def test_a_clone_of_root_is_roots_whoever_made_a_folder_of_our_name_above_it(
    world: World, shared_folder: Path
) -> None:
    """Such as in /tmp."""
    planted = shared_folder / ".replisync"
    planted.mkdir()
    give_to_nobody(planted)
    target = shared_folder / "new/standby"
    run_here("clone", *world.new(target))
    assert {path.lstat().st_uid for path in (target.parent, target, *target.rglob("*"))} == {0}


@pytest.mark.parametrize("way", ["changelog", "export"])
def test_a_reseed_of_root_makes_a_standby_of_the_same_owner(owned: Owned, way: str) -> None:
    export = ("--from-serverdir", owned.primary.serverdir, "--seed", "export")
    owned.as_root("clone", "--reseed", *(export if way == "export" else ()))
    linked = {str(path) for path in owned.target.rglob("*") if path.is_file() and path.stat().st_nlink > 1}
    assert owned.strange() <= linked
    owned.as_owner("catchup")


def test_a_deleted_file_in_a_folder_of_root_holds_neither_replication_nor_promotion_back(
    owned: Owned,
) -> None:
    """It stays in place, with one warning, until the folder is given back."""
    owned.upload()
    owned.as_owner("catchup")
    owned.leave_to_root()
    owned.client.delete_project("alice/dev", PROJECT)
    owned.client.register("alice/dev", "after", "1.0")
    said = owned.as_owner("catchup")
    [warning] = [line for line in said.logs if line["level"] == "warning"]
    assert warning["event"] == "deleted files stay in place"
    assert f"{owned.folders()[0]} belongs to root" in warning["error"]
    assert f"`replisync verify --repair --serverdir {owned.target} " in warning["error"]
    assert last_serial(owned.target) == owned.primary.serial()
    assert "1 files that the primary deleted stay in place" in owned.as_owner("promote").stdout
    assert list(owned.target.rglob("of_root-1.0*")) != []
    with served(owned) as client:
        assert PROJECT not in client.json("GET", "/alice/dev")["projects"]
        client.upload_wheel("alice/dev", "new", "1.0", b"1")


def test_what_root_left_is_put_away_after_root_has_given_it_back(owned: Owned) -> None:
    owned.upload()
    owned.as_owner("catchup")
    owned.leave_to_root()
    owned.client.delete_project("alice/dev", PROJECT)
    owned.as_owner("catchup")
    said = owned.as_owner("verify", "--repair", code=8)
    assert "`replisync verify --repair --serverdir" in said.message
    assert "as root" in said.message
    owned.as_root("verify", "--repair")
    assert list((owned.target / "+files").rglob("of_root-1.0*")) == []
    assert owned.strange() == set()


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_of_another_owner_is_retained_as_a_copy_and_nothing_that_a_link_leads_to_is(
    shared_folder: Path, linked: bool
) -> None:
    """Where the system protects hard links, it lets nobody make one to a file of another owner."""
    files, staging, retained = (shared_folder / name for name in ("files", "staging", "retained"))
    for folder in (files, staging, retained):
        folder.mkdir()
        give_to_nobody(folder)
    of_root = files / "file"
    of_root.write_text("of root")
    if linked:
        of_root.rename(shared_folder / "elsewhere")
        of_root.symlink_to(shared_folder / "elsewhere")
    os.seteuid(NOBODY)
    try:
        with suppress(NotPermitted):
            DiskFiles(files, staging, retained).retain("file", 1, keep=True)
    finally:
        os.seteuid(0)
    kept = [one for one in retained.iterdir() if one.is_file() and not one.is_symlink()]
    assert [one.read_text() for one in kept] == ([] if linked else ["of root"])


def test_a_file_that_must_be_placed_in_a_folder_of_root_is_waited_for(owned: Owned) -> None:
    """Whose the folder is, and what helps, is in the message."""
    owned.as_owner("catchup")
    folder = owned.target / "+files/alice/dev/+f"
    os.chown(folder, 0, 0)
    before = last_serial(owned.target)
    owned.upload()
    said = owned.as_owner("catchup", "--patience", 1, code=7)
    assert f"{folder} belongs to root" in said.message
    assert f"`replisync verify --repair --serverdir {owned.target} " in said.message
    assert "` as root" in said.message
    assert last_serial(owned.target) == before
    owned.as_root("verify", "--repair")
    owned.as_owner("catchup")
    assert last_serial(owned.target) == owned.primary.serial()


def test_a_link_for_files_gives_nothing_away_that_is_not_in_a_folder_of_the_owner(owned: Owned) -> None:
    owned.as_owner("catchup")
    files, elsewhere = owned.target / "+files", owned.target.parent / "elsewhere"
    files.rename(elsewhere)
    files.symlink_to(elsewhere)
    of_root = (elsewhere, elsewhere / "etc", elsewhere / "alice")
    of_root[1].mkdir(mode=0o755)
    for folder in of_root:
        os.chown(folder, 0, 0)
    owned.as_root("verify", "--repair", code=8)
    assert {folder.stat().st_uid for folder in of_root} == {0}
    os.chown(elsewhere, NOBODY, NOBODY)
    owned.as_root("verify", "--repair")
    assert {folder.stat().st_uid for folder in of_root} == {NOBODY}


def test_a_link_for_our_own_folder_gives_nothing_away(owned: Owned) -> None:
    own, elsewhere = owned.target / ".replisync", owned.target.parent / "elsewhere"
    own.rename(elsewhere)
    own.symlink_to(elsewhere)
    os.chown(elsewhere / "tmp", 0, 0)
    [finding] = wrong_modes(Serverdir(owned.target))
    assert finding.subject == ".replisync/tmp"
    assert not grant(Serverdir(owned.target), finding)
    assert (elsewhere / "tmp").stat().st_uid == 0


@pytest.mark.parametrize("level", ["files", "full"])
def test_verify_finds_the_same_whoever_runs_it(owned: Owned, level: str) -> None:
    owned.upload()
    owned.as_owner("catchup")
    owned.leave_to_root()
    found = []
    for verify in (owned.as_root, owned.as_owner):
        said = verify("verify", "--level", level, "--json", code=8)
        found.append(json.loads(said.stdout)["findings"])
    for one in (*found[0], *found[1]):
        remedy = one.pop("remedy")
        assert remedy.startswith(f"run `replisync verify --repair --serverdir {owned.target} ")
        assert remedy.endswith("` as root")
    assert found[0] == found[1]
    assert {one["kind"] for one in found[0]} == {"permissions"}


def test_a_promotion_names_files_on_a_file_system_that_is_read_only(owned: Owned) -> None:
    owned.as_owner("catchup")
    files, kept = owned.target / "+files", owned.target.parent / "kept"
    files.rename(kept)
    with small_disk(files, 4096) as disk:
        shutil.copytree(kept, files, dirs_exist_ok=True)
        give_to_nobody(files)
        disk.protect()
        said = owned.as_owner("promote")
        assert f"the file system at {files} is read-only" in said.stdout
