"""What a verification found stands against a promotion until it is cleared, and `status` says so."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.damage import damage_page, remove_row
from tests.support.history import connect, read_history
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby


def private_file(standby: Standby) -> Path:
    """Return a private file that the live keys demand."""
    live = read_history(standby.serverdir).live_files
    return (
        standby.serverdir / "+files" / next(path for path in sorted(live) if path.startswith("alice/dev/+f"))
    )


def damage(path: Path) -> None:
    """Change a byte of a file, so that its digest alone tells."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.unlink()  # others may be links of it
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_findings_stand_until_a_repair_of_their_level(standby: Standby) -> None:
    """A lower level cannot see them, and so clears nothing; then nothing stands, and it is promoted."""
    path = private_file(standby)
    relpath = path.relative_to(standby.serverdir / "+files").as_posix()
    damage(path)
    assert standby.status()["reason"] is None
    standby.verify("full", code=8)
    standby.verify("files")
    assert standby.status()["last_verify"]["level"] == "files"
    for found in (standby.status(), standby.status("--offline")):
        assert found["state"] == "current"
        assert f"1 file-digest ({relpath})" in found["reason"]
        assert found["next"] == f"replisync verify --repair --level full --serverdir {standby.serverdir}"
    assert f"{standby.serverdir}: current - `replisync" not in run_here("status", *standby.own).stdout
    assert f"{standby.serverdir}: current - `verify --level full`" in run_here("status", *standby.own).stdout
    before = snapshot(standby.serverdir)
    for dry in ((), ("--dry-run",)):
        refused = standby.promote(*dry, code=9)
        assert f"1 file-digest ({relpath})" in str(refused["error"])
        assert "verify --repair --level full" in refused["hint"]
        assert f"--serverdir {standby.serverdir}" in refused["hint"]
        assert (refused["findings"], refused["lost_serials"]) == ({"file-digest": 1}, 0)
    assert_untouched(standby.serverdir, before)
    standby.verify("full", "--repair")
    found = standby.status()
    assert (found["reason"], found["next"]) == (None, None)
    assert standby.promote()["findings"] == {}


def test_findings_that_are_given_up_are_named(standby: Standby) -> None:
    """With --accept-loss the promotion goes on, and says what it does not have."""
    path = private_file(standby)
    damage(path)
    standby.verify("full", code=8)
    standby.catchup()  # which looks at nothing that is here
    assert json.loads(run_here("promote", *standby.own, "--json", code=9).stdout)["code"] == 9
    said = run_here("promote", *standby.own, "--accept-loss").stdout
    assert "not repaired: 1 file-digest (alice/dev/+f" in said
    assert json.loads((standby.serverdir / ".nodeinfo").read_text())["role"] == "primary"


def test_a_promotion_takes_a_quick_look_itself(standby: Standby) -> None:
    """An entry that is missing in the history is found without any verification before."""
    remove_row(standby.serverdir, 5)
    refused = standby.promote("--dry-run", code=9)
    assert "missing-entry (serial 5)" in str(refused["error"])
    assert refused["findings"]["missing-entry"] == 1
    assert "verify --repair --level quick" in refused["hint"]
    standby.verify("quick", code=8)
    assert str(standby.promote(code=9)["error"]).count("serial 5)") == 1, "it is said once"
    standby.verify("quick", "--repair")
    standby.promote()


@pytest.mark.parametrize("name", [".serverversion", ".replisync/retained"])
def test_findings_about_permissions_are_warnings_with_the_command_that_helps(
    standby: Standby, name: str
) -> None:
    path = standby.serverdir / name
    path.chmod(0o400)
    standby.verify("quick", code=8)
    found = standby.status()
    assert (found["state"], found["next"] is None) == ("current", False)
    assert f"1 permissions ({name})" in found["reason"]
    said = run_here("promote", *standby.own).stdout
    bits = "rwx" if path.is_dir() else "rw"
    assert f"warning: permissions of {path}: expected {bits}" in said
    assert f"; run `chmod u+{bits} {path}`" in said
    assert f"a primary at serial {standby.serial}" in said


@pytest.mark.parametrize("name", ["sqlite_autoindex_kv_1", "replisync_tip", "replisync_verify"])
def test_a_database_that_cannot_be_read_through_can_be_given_up(standby: Standby, name: str) -> None:
    """A page is damaged, and the primary may be gone: it is promoted with --accept-loss alone."""
    damage_page(standby.serverdir / ".sqlite", name)
    refused = standby.promote(code=9)
    assert "1 database (database disk image is malformed)" in str(refused["error"])
    assert refused["findings"] == {"database": 1}
    assert json.loads((standby.serverdir / ".nodeinfo").read_text())["role"] == "replica"
    said = run_here("promote", *standby.own, "--accept-loss").stdout
    assert "not repaired: 1 database (database disk image is malformed)" in said
    assert json.loads((standby.serverdir / ".nodeinfo").read_text())["role"] == "primary"


def test_a_dry_run_counts_no_file_that_could_go(standby: Standby) -> None:
    """A run was killed between a commit and the moves that it demands: the promotion makes them."""
    dropped = standby.serverdir / "+files" / "alice/dev/+f/dropped.zip"
    dropped.write_bytes(b"dropped")
    with closing(connect(standby.serverdir, write=True)) as database, database:
        row = ("alice/dev/+f/dropped.zip", standby.serial, "drop")
        database.execute("INSERT INTO replisync_pending (relpath, serial, action) VALUES (?, ?, ?)", row)
    assert standby.promote("--dry-run")["deleted_files"] == 0
    assert dropped.exists()
    assert standby.promote()["deleted_files"] == 0
    assert not dropped.exists()
