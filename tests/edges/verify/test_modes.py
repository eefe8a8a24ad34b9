"""Owners and modes: who runs replisync can work with everything, and nobody else can write to it."""

import os
import shutil

import pytest

from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import A, B
from tests.edges.standbys import Standby


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
@pytest.mark.parametrize("level", [Level.FILES, Level.FULL])
def test_what_the_owner_of_the_serverdir_cannot_read_is_given_back(one: Standby, level: Level) -> None:
    for path in (one.root, *one.root.rglob("*")):
        os.chown(path, 12345, 12345)
    file, folder = one.root / "+files" / A, (one.root / "+files" / B).parent
    for path, mode in ((file, 0o640), (folder, 0o755)):
        os.chown(path, 0, 0)
        path.chmod(mode)
    subjects = {A, str(folder.relative_to(one.root / "+files"))}
    assert {each.subject for each in one.look(level).findings} == subjects
    assert one.repair(level).findings == []
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (file, folder)} == {(12345, 12345)}
    os.chown(file, 0, 0)
    file.chmod(0o644)
    assert one.look(level).findings == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_what_the_superuser_makes_anew_is_its_owners(one: Standby) -> None:
    for path in (one.root, *one.root.rglob("*")):
        os.chown(path, 12345, 12345)
    small = [one.root / name for name in (".nodeinfo", ".serverversion", ".event_serial")]
    for path in small:
        path.unlink()
    folders = [one.root / ".replisync/tmp", one.root / ".replisync/retained"]
    for path in folders:
        os.chown(path, 0, 0)
    shutil.rmtree(one.root / "+files/u/pypi")
    names = {path.relative_to(one.root).as_posix() for path in folders}
    quick = one.look(Level.QUICK).findings
    assert {each.subject for each in quick if each.kind == kinds.PERMISSIONS} == names
    assert one.repair().findings == []
    made = [*small, *folders, *(one.root / "+files/u").rglob("*")]
    assert {path.stat().st_uid for path in made} == {12345}


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files to others")
def test_the_superuser_may_work_in_somebody_elses_folder(one: Standby) -> None:
    os.chown(one.root, 12345, 12345)
    assert one.look(Level.QUICK).findings == []


def test_files_that_everybody_may_write_to_are_as_they_are_made_where_all_are_so(one: Standby) -> None:
    for path in (one.root / "+files", *(one.root / "+files").rglob("*")):
        path.chmod(0o777)
    assert one.look().findings == []
