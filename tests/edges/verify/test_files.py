"""Files are judged by what the entries say of them; nothing that a repair removes is lost."""

import hashlib
from pathlib import Path

import pytest

from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import B
from tests.edges.standbys import Standby
from tests.edges.verify.damages import (
    DAMAGES,
    EXTRA,
    LEFT,
    found,
    put_folder,
)


def test_what_nobody_names_is_put_aside_and_not_lost(one: Standby) -> None:
    one.write_file(EXTRA, b"extra")
    one.repair()
    [(name, serial)] = one.database.read(
        "SELECT stored_as, serial FROM replisync_retained WHERE relpath = ?", EXTRA
    )
    assert (one.root / ".replisync" / "retained" / name).read_bytes() == b"extra"
    assert serial == -1


def test_leftovers_of_one_name_are_all_kept(one: Standby) -> None:
    for content in (b"first", b"second"):
        one.write_file(EXTRA, content)
        one.repair()
    names = one.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", EXTRA)
    assert {(one.root / ".replisync" / "retained" / name).read_bytes() for [name] in names} == {
        b"first",
        b"second",
    }


def test_a_file_that_the_primary_does_not_give_becomes_a_fault(one: Standby) -> None:
    one.remove_file(B)
    one.server.files[B] = 500
    [finding] = one.repair().findings
    assert (finding.kind, finding.subject) == (kinds.MISSING_FILE, B)
    assert "500" in finding.remedy
    report = one.look()
    assert report.findings == []
    assert (report.known["faults"], report.known["files_missing"]) == (2, 2)


def test_a_damaged_file_that_the_primary_does_not_give_is_served_to_nobody(one: Standby) -> None:
    """Neither by a server on the standby nor by one that it becomes; what was in its place is kept."""
    DAMAGES["a flipped byte in a file"].do(one)
    damaged = one.read_file(B)
    one.server.files[B] = 500
    [finding] = one.repair().findings
    assert (finding.kind, finding.subject) == (kinds.FILE_DIGEST, B)
    assert one.read_file(B) is None
    [(name,)] = one.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", B)
    assert (one.root / ".replisync" / "retained" / name).read_bytes() == damaged
    report = one.look()
    assert (report.findings, report.known["files_missing"]) == ([], 2)


def test_another_content_in_the_place_of_a_file_that_is_missing_is_found(one: Standby) -> None:
    one.database.write(f"UPDATE replisync_files SET {LEFT} WHERE relpath = ?", B)  # noqa: S608
    assert one.look().findings == []
    DAMAGES["a flipped byte in a file"].do(one)
    [finding] = one.look().findings
    assert (finding.kind, finding.subject) == (kinds.FILE_DIGEST, B)
    assert one.repair().findings == []
    assert one.look().known["files_missing"] == 1


def test_a_folder_in_the_place_of_a_file_is_kept_with_all_that_is_in_it(one: Standby) -> None:
    for name in (".nodeinfo", ".replisync/tmp/folder", f"+files/{B}"):
        put_folder(one, name)
    assert one.repair(Level.FILES).findings == []
    kept = (one.root / ".replisync" / "aside").glob("*/*/more/kept")
    assert {path.parent.parent.name for path in kept} == {".nodeinfo", "folder", Path(B).name}


def test_a_linked_folder_with_files_in_it_stays_and_is_told(one: Standby) -> None:
    """They would be gone with the link."""
    folder = one.root / "+files" / "u"
    folder.rename(one.root / "elsewhere")
    folder.symlink_to(one.root / "elsewhere")
    [finding] = [each for each in one.repair().findings if each.subject == "u"]
    assert "copy the folder" in finding.remedy
    assert one.read_file(B) == b"b" * 10


@pytest.mark.parametrize("level", [Level.FILES, Level.FULL])
def test_an_emptied_file_whose_size_nobody_knows_is_found_and_brought_again(
    one: Standby, level: Level
) -> None:
    one.write_file(B, b"")
    one.database.write("UPDATE replisync_files SET size = NULL WHERE relpath = ?", B)
    assert found(one, level) == {kinds.LEDGER if level == Level.FILES else kinds.FILE_DIGEST}
    assert one.repair(level).findings == []
    assert one.read_file(B) == b"b" * 10
    assert one.database.read("SELECT size FROM replisync_files WHERE relpath = ?", B) == [(10,)]


def test_a_file_that_no_serial_announced_is_superfluous_whatever_its_path_promises(one: Standby) -> None:
    content = b"left by nobody"
    digest = hashlib.sha256(content).hexdigest()
    one.write_file(f"u/dev/+f/{digest[:3]}/{digest[3:16]}/soon-1.0.zip", content)
    assert found(one, Level.FULL) == {kinds.SUPERFLUOUS_FILE}
