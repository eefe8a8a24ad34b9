"""Promotion: a stock devpi-server goes on where the primary was, and nobody else writes there any more."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.client import PASSWORD, Client
from tests.support.content import build_wheel
from tests.support.devpi import Server
from tests.support.history import read_history
from tests.support.oracle import assert_fsck, assert_same_export
from tests.support.pip import devpi_upload, pip_install
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby, changed, tree
from tests.support.waiting import wait_until


def started(serverdir: Path, secretfile: Path) -> Server:
    """Return a stock devpi-server for a promoted serverdir, still to be started."""
    return Server(serverdir, secretfile=secretfile)


def test_a_promoted_standby_is_a_primary(standby: Standby, tmp_path: Path) -> None:
    """devpi-server starts on it, pip installs from it, devpi-client uploads to it: the next serial."""
    before = standby.status()
    said = standby.promote()
    assert (said["serial"], said["uuid"], said["dry_run"]) == (before["serial"], before["uuid"], False)
    history = read_history(standby.serverdir)
    wheel = tmp_path / build_wheel("foo-bar", "3.0")[0]
    wheel.write_bytes(build_wheel("foo-bar", "3.0")[1])
    with started(standby.serverdir, standby.secretfile) as server:
        assert (server.uuid(), server.serial()) == (before["uuid"], before["serial"])
        assert server.nodeinfo()["role"] == "primary"
        pip_install(f"{server.url}/alice/dev/+simple/", "foo-bar==1.0", tmp_path / "installed")
        assert b"replaced" in (tmp_path / "installed" / "foo_bar.py").read_bytes()
        devpi_upload(f"{server.url}/alice/dev", "alice", PASSWORD, [wheel])
        assert server.serial() == before["serial"] + 1
        pip_install(f"{server.url}/alice/dev/+simple/", "foo-bar==3.0", tmp_path / "next")
        log = server.log_path.read_text()
    assert [word for word in ("Traceback", "ERROR") if word in log] == []
    now = read_history(standby.serverdir)
    assert {serial: now.changelog[serial] for serial in history.changelog} == history.changelog
    assert set(now.changelog) - set(history.changelog) == {before["serial"] + 1}
    assert_fsck(standby.serverdir)


def test_a_promoted_standby_says_so_and_is_never_written_again(still: Server, standby: Standby) -> None:
    """`status` tells its state; every command that writes ends with 6 and changes nothing."""
    standby.promote()
    before = tree(standby.serverdir)
    commands: dict[str, tuple[object, ...]] = {
        "clone": standby.new,
        "catchup": standby.with_secret,
        "follow": standby.with_secret,
    }
    for command, options in commands.items():
        said = run_here(command, *options, code=6)
        assert "promoted" in said.message, command
    for verb in (["retry"], ["clear"], ["skip", "root/dev/+f/a/b/c"]):
        run_here("faults", *verb, *standby.own, code=6)
    assert changed(before, standby.serverdir) == []
    found = standby.status()
    assert (found["state"], found["lag_serials"], found["serial"]) == ("promoted", None, still.serial())
    assert changed(before, standby.serverdir) == []


def test_a_second_promotion_says_that_it_is_done(standby: Standby) -> None:
    """As after a terminal that was lost: the time, the serial, and how to start the server; exit 0."""
    first = standby.promote()
    before = tree(standby.serverdir)
    again = standby.promote()
    assert (first["already"], again["already"]) == (False, True)
    assert [again[name] for name in ("uuid", "serial", "promoted")] == [
        first[name] for name in ("uuid", "serial", "promoted")
    ]
    text = run_here("promote", *standby.own).stdout
    assert f"is a primary already, since {first['promoted']}, at serial {first['serial']}" in text
    assert f"start it: devpi-server --serverdir {standby.serverdir} --role primary" in text
    said = run_here("promote", *standby.own, "--keep-identity", code=6)
    assert "with a UUID of its own" in said.message
    assert changed(before, standby.serverdir) == []


def test_the_identity_of_a_primary_that_answers_is_not_taken(standby: Standby) -> None:
    """Two servers with one UUID need a decision; both identities say what they mean for other standbys."""
    said = run_here("promote", *standby.own, "--keep-identity", code=9)
    assert "the old primary still answers, and both would have its UUID" in said.message
    assert (
        "its replicas and standbys can follow"
        in run_here("promote", *standby.own, "--keep-identity", "--accept-loss", "--dry-run").stdout
    )
    assert "of the old primary refuse it" in run_here("promote", *standby.own, "--dry-run").stdout


def test_a_promotion_that_was_interrupted_is_finished_and_nothing_writes_before(standby: Standby) -> None:
    """The database is marked before the role is set; a crash between the two leaves what it can finish."""
    role = standby.serverdir / ".nodeinfo"
    before = role.read_bytes()
    standby.promote()
    role.write_bytes(before)
    assert "promoted at" in standby.catchup(code=6).message
    assert standby.status()["state"] == "promoted"
    standby.promote()
    assert b'"primary"' in role.read_bytes()


def test_the_database_is_one_file_again(still: Server, standby: Standby) -> None:
    """No -wal and -shm beside `.sqlite`, and the journal mode that devpi-server makes."""
    standby.status()  # whoever reads leaves them behind
    assert (standby.serverdir / ".sqlite-wal").exists()
    standby.promote()
    databases = sorted(path.name for path in standby.serverdir.glob(".sqlite*"))
    assert databases == [".sqlite"]
    for serverdir in (still.serverdir, standby.serverdir):
        with closing(sqlite3.connect(f"file:{serverdir / '.sqlite'}?mode=ro", uri=True)) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


# Events


def test_events_are_not_replayed(standby: Standby) -> None:
    """The first event that devpi's plugins see is that of the first change after the promotion."""
    serial = standby.serial
    standby.promote()
    assert (standby.serverdir / ".event_serial").read_text() == str(serial + 1)


def test_events_are_replayed_on_request(standby: Standby) -> None:
    """With --replay-events devpi-server goes through all of the history, and gets to its end."""
    standby.promote("--replay-events")
    assert (standby.serverdir / ".event_serial").read_text() == "0"
    with started(standby.serverdir, standby.secretfile) as server:
        server.wait_for_events()
        assert "Waiting for file" not in server.log_path.read_text()


# What stands against a promotion


@pytest.fixture
def ahead(tmp_path: Path, secretfile: Path) -> Iterator[tuple[Server, Standby]]:
    """A primary that may be changed and stopped, and a standby of it that is one upload behind."""
    with Server(tmp_path / "primary", secretfile=secretfile).init() as primary:
        with Client(primary.url).login() as client:
            client.create_index("root/dev", volatile=True)
            client.upload_wheel("root/dev", "first", "1.0")
            standby = Standby(tmp_path / "standby", primary.url, secretfile)
            standby.clone()
            client.upload_wheel("root/dev", "second", "1.0")
        yield primary, standby


def test_a_primary_that_is_ahead_is_not_given_up_unasked(ahead: tuple[Server, Standby]) -> None:
    """The loss is named with exit 9, also when the primary has gone since; --accept-loss goes on."""
    primary, standby = ahead
    serial = standby.serial
    check_loss(standby, serial)
    # What `promote` hears is not written; a catchup that does not go all the way remembers it.
    standby.catchup("--to-serial", serial)
    primary.stop()
    check_loss(standby, serial)
    said = standby.promote("--accept-loss")
    assert (said["lost_serials"], said["reachable"], said["primary_serial"]) == (1, False, serial + 1)
    with started(standby.serverdir, standby.secretfile) as server:
        assert server.serial() == serial


def check_loss(standby: Standby, serial: int) -> None:
    """Check that a promotion is refused which would lose a serial, and changes nothing."""
    before = snapshot(standby.serverdir)
    said = standby.promote(code=9)
    assert said["code"] == 9
    assert f"the primary is at serial {serial + 1}" in said["error"]
    assert "--accept-loss" in said["hint"]
    assert_untouched(standby.serverdir, before)


def test_a_standby_that_lacks_a_private_file_is_not_promoted_unasked(
    standby: Standby, tmp_path: Path
) -> None:
    """Files that were skipped on request count as loss: exit 9, and --accept-loss goes on."""
    lame = Standby(tmp_path / "lame", standby.primary_url, standby.secretfile)
    lame.clone("--file-replication-skip-indexes", "alice/dev")
    before = snapshot(lame.serverdir)
    said = lame.promote(code=9)
    missing = sum(path.startswith("alice/dev/") for path in read_history(lame.serverdir).live_files)
    assert f"{missing} files of private stages" in said["error"]
    assert_untouched(lame.serverdir, before)
    assert lame.promote("--accept-loss")["missing_files"] == missing


def test_nobody_promotes_while_replisync_writes(standby: Standby) -> None:
    """A running `follow` holds the lock: exit 6, nothing changed, and the follower goes on."""
    with standby.follow() as follower:
        before = snapshot(standby.serverdir)
        for options in ((), ("--accept-loss",)):
            said = standby.promote(*options, code=6)
            assert f"process {follower.pid}" in said["error"]
        rehearsed = standby.promote("--dry-run")
        assert rehearsed["warnings"] == [
            f"another replisync (process {follower.pid}) writes to it: stop it before the promotion"
        ]
        assert_untouched(standby.serverdir, before)
        follower.stop()
    standby.promote()


def test_an_unfinished_clone_is_not_promoted(standby: Standby) -> None:
    """Half a copy is no server, whatever is accepted."""
    (standby.serverdir / ".nodeinfo").unlink()
    before = snapshot(standby.serverdir)
    assert "not complete" in standby.promote("--accept-loss", code=6)["error"]
    assert_untouched(standby.serverdir, before)


# Choices


def test_a_dry_run_changes_nothing_and_says_what_would_be(still: Server, standby: Standby) -> None:
    """All fields are those of the promotion itself, but that it is dry."""
    before = snapshot(standby.serverdir)
    dry = standby.promote("--dry-run")
    assert_untouched(standby.serverdir, before)
    standby.catchup()
    done = standby.promote()
    now = {name: done[name] for name in ("last_contact", "promoted")}
    assert {**dry, "dry_run": False, **now} == done
    assert done.pop("last_contact")
    assert done.pop("promoted")
    assert done == {
        "serverdir": str(standby.serverdir),
        "serial": still.serial(),
        "primary_serial": still.serial(),
        "reachable": True,
        "unreachable": None,
        "lost_serials": 0,
        "missing_files": 0,
        "findings": {},
        "found": [],
        "warnings": [],
        "uuid": standby.status()["uuid"],
        "dry_run": False,
        "already": False,
        "deleted_files": 0,
        "storage": "sqlite",
        "doubt": None,
    }


def test_people_are_told_what_to_do_next(standby: Standby) -> None:
    """Without --json: where it stands, that the old primary still answers, and how to start the new one."""
    said = run_here("promote", *standby.own).stdout
    assert f"a primary at serial {standby.serial}" in said
    assert "the old primary still answers" in said
    assert f"devpi-server --serverdir {standby.serverdir} --role primary" in said


def test_other_replicas_go_on_with_a_promoted_standby_that_keeps_the_identity(
    ahead: tuple[Server, Standby], tmp_path: Path
) -> None:
    """devpi's own replica of the old primary takes the promoted server for it, and replicates on."""
    primary, standby = ahead
    standby.catchup()
    uuid = primary.uuid()
    with Proxy(primary.url) as address:
        replica = Server(
            tmp_path / "replica", role="replica", primary_url=address.url, secretfile=standby.secretfile
        )
        with replica.init():
            replica.wait_for_serial(primary.serial())
            primary.stop()
            assert standby.promote("--keep-identity")["uuid"] == uuid
            with started(standby.serverdir, standby.secretfile) as server:
                assert server.uuid() == uuid
                address.target_url = server.url
                address.drop_connections()
                with Client(server.url).login() as client:
                    relpath = client.upload_wheel("root/dev", "third", "1.0")
                replica.wait_for_serial(server.serial())
                there = replica.serverdir / "+files" / relpath
                wait_until(there.is_file, 60, "the file is on the replica")
                assert read_history(replica.serverdir).latest() == read_history(standby.serverdir).latest()


def test_the_promoted_standby_exports_what_the_primary_has(still: Server, standby: Standby) -> None:
    """devpi-export of both sides is equal, cached files of mirrors included where it can carry them."""
    standby.promote()
    assert_same_export(still.serverdir, standby.serverdir)
