"""Which way a target is seeded, and the export of a serverdir whose server runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.busy import written_to
from tests.support.client import Client
from tests.support.damage import remove_row, replace_row
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import files_below, read_history
from tests.support.oracle import (
    assert_fsck,
    assert_replicated,
    assert_same_export,
    export,
)
from tests.support.pgstandby import PostgresStandby, files
from tests.support.postgres import Postgres
from tests.support.runs import Background, run_here
from tests.support.snapshot import last_serial
from tests.support.standby import Standby, changed, tree
from tests.support.waiting import wait_until

FROM = "--from-serverdir"


@pytest.fixture(scope="module")
def hole(populated_serverdir: Path) -> int:
    """An entry in the middle of the history in which no key has its latest value."""
    history = read_history(populated_serverdir)
    free = set(history.changelog) - {serial for _, serial in history.kv.values()}
    return sorted(free)[len(free) // 2]


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory, populated_serverdir: Path, hole: int) -> Path:
    """The serverdir of a stopped primary whose history has a hole; copy it, change nothing in it."""
    serverdir = copy_serverdir(populated_serverdir, tmp_path_factory.mktemp("holed") / "primary")
    remove_row(serverdir, hole)
    return serverdir


@pytest.fixture
def damaged(tmp_path: Path, holed: Path, secretfile: Path) -> Iterator[Server]:
    """A running primary whose history has a hole, to do with as you like."""
    with Server(copy_serverdir(holed, tmp_path / "damaged"), secretfile=secretfile) as server:
        yield server


@pytest.fixture
def new(tmp_path: Path, damaged: Server, secretfile: Path) -> Standby:
    """A standby of the damaged primary, still to be made."""
    return Standby(tmp_path / "new", damaged.url, secretfile)


def check_follows(primary: Server, standby: Standby) -> None:
    """Check that a standby goes on with its primary, and says what it says."""
    with Client(primary.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "since", "1.0")
    standby.catchup()
    assert standby.serial == primary.serial()
    assert sorted(read_history(standby.serverdir).changelog) == list(range(standby.serial + 1))
    assert_fsck(standby.serverdir)
    assert_same_export(primary.serverdir, standby.serverdir)
    assert not (standby.serverdir / ".replisync/seed").exists()


def test_an_export_is_made_of_a_running_server(still: Server, tmp_path: Path, secretfile: Path) -> None:
    """Its folder is only read, with its hidden files; the serial is that of the snapshot."""
    standby = Standby(tmp_path / "new", still.url, secretfile)
    before = tree(still.serverdir)
    stamp = still.serverdir.stat().st_mtime_ns
    said = standby.clone(FROM, still.serverdir, "--seed", "export", "--hard-links")
    assert "from an export (--seed export was given)" in said.stdout
    assert [name for name in changed(before, still.serverdir) if not name.startswith("+files/")] == []
    assert still.serverdir.stat().st_mtime_ns == stamp
    seed = standby.status()["seed"]
    assert (seed["kind"], seed["serial"]) == ("export", still.serial())
    assert seed["reason"] == "--seed export was given"
    assert shared_files(still.serverdir, standby.serverdir)
    standby.catchup()
    assert_fsck(standby.serverdir)
    assert_same_export(still.serverdir, standby.serverdir)
    assert not (standby.serverdir / ".replisync/seed").exists()
    standby.promote("--dry-run")


def shared_files(one: Path, other: Path) -> list[str]:
    """Return the files that two serverdirs have as links."""
    paths = files_below(other / "+files")
    return [path for path in paths if (one / "+files" / path).samefile(other / "+files" / path)]


def test_an_export_without_a_primary_is_a_server_of_its_own(
    still: Server, tmp_path: Path, secretfile: Path
) -> None:
    target = tmp_path / "copy"
    run_here("clone", "--serverdir", target, FROM, still.serverdir, "--seed", "export")
    history = read_history(target)
    assert sorted(history.changelog) == list(range(still.serial() + 1))
    assert_same_export(still.serverdir, target)
    assert shared_files(still.serverdir, target) == [], "they are the server's own"
    indexes = {
        key: value["indexes"] for key, (_, _, value) in history.latest().items() if key == "root/.config"
    }
    assert "pypi" not in indexes["root/.config"], "the server has none"
    assert (target / ".event_serial").read_text() == str(history.last_serial + 1)
    with Server(target, role="standalone", secretfile=secretfile) as server, Client(server.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "after", "1.0")


def test_a_hole_in_the_history_leads_to_an_export(damaged: Server, new: Standby, hole: int) -> None:
    """It is found in the middle, said plainly, and kept in the status."""
    said = new.clone(FROM, damaged.serverdir)
    assert f"from an export (the history cannot be used at serial {hole}" in said.stdout
    seed = new.status()["seed"]
    assert seed["kind"] == "export"
    assert f"serial {hole}" in seed["reason"]
    check_follows(damaged, new)


def test_without_a_source_to_export_a_hole_is_an_error_that_says_what_to_do(
    damaged: Server, new: Standby, tmp_path: Path, hole: int
) -> None:
    """Then the same folder takes the clone that the message names."""
    said = new.clone("--patience", 60, code=5)
    assert f"at serial {hole}" in said.message
    assert "--from-serverdir" in said.message
    assert "--from-export" in said.message
    assert "--seed export" in new.clone("--seed", "export", code=2).message
    assert last_serial(new.serverdir) == hole - 1
    dump = export(damaged.serverdir, tmp_path / "dump", mirrored=False)
    new.clone("--from-export", dump, "--at-serial", damaged.serial())
    assert new.status()["seed"]["reason"] == "--from-export was given"
    check_follows(damaged, new)


def test_a_history_without_its_beginning_is_exported_too(
    holed: Path, tmp_path: Path, secretfile: Path
) -> None:
    """The primary cannot even show its first entry; who it is shows otherwise."""
    source = copy_serverdir(holed, tmp_path / "source")
    remove_row(source, 0)
    with Server(source, secretfile=secretfile) as server:
        standby = Standby(tmp_path / "new", server.url, secretfile)
        assert "at serial 0" in standby.clone(code=5).message
        standby.clone(FROM, source)
        check_follows(server, standby)


def test_the_smallest_server_is_exported_too(tmp_path: Path, primary: Server, secretfile: Path) -> None:
    """One without any file, and with fewer serials than an import makes."""
    standby = Standby(tmp_path / "new", primary.url, secretfile)
    standby.clone(FROM, primary.serverdir, "--seed", "export")
    assert standby.serial == primary.serial()
    assert_same_export(primary.serverdir, standby.serverdir)


def test_the_exact_way_can_be_demanded(damaged: Server, new: Standby, hole: int) -> None:
    """Where it is not possible it ends with 5; the export that it names begins in the same folder."""
    said = new.clone(FROM, damaged.serverdir, "--seed", "changelog", code=5)
    assert f"at serial {hole}" in said.message
    assert "--seed export" in said.message
    assert not (new.serverdir / ".nodeinfo").exists()
    new.clone(FROM, damaged.serverdir, "--seed", "export")
    check_follows(damaged, new)


def test_a_dump_beside_the_changelog_is_a_folder_of_files(
    still: Server, tmp_path: Path, secretfile: Path
) -> None:
    """With `--seed changelog` the history is the primary's, and the files of the dump need not be fetched."""
    dump = export(still.serverdir, tmp_path / "dump", mirrored=False)
    standby = Standby(tmp_path / "new", still.url, secretfile)
    standby.clone("--from-export", dump, "--at-serial", still.serial(), "--seed", "changelog")
    assert_replicated(still, standby.serverdir, export=False)
    status = standby.status()
    assert status["seed"]["kind"] == "changelog"
    assert status["last_run"]["local"] > 20
    said = run_here("clone", *standby.own, "--from-export", dump, "--seed", "changelog", code=2)
    assert "no history" in said.message


def _without_latest(serverdir: Path) -> None:
    """Damage an entry that has the latest value of a release file."""
    history = read_history(serverdir)
    path = next(path for path in sorted(history.live_files) if path.startswith("alice/"))
    replace_row(serverdir, history.kv[path][1], b"\xde\xad" * 100)


def _without_last(serverdir: Path) -> None:
    replace_row(serverdir, read_history(serverdir).last_serial, b"")


@pytest.mark.parametrize("damage", [_without_latest, _without_last])
def test_what_cannot_be_exported_either_is_left(
    holed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    source = copy_serverdir(holed, tmp_path / "source")
    damage(source)
    said = run_here("clone", "--serverdir", tmp_path / "new", FROM, source, code=5)
    assert "devpi-export" in said.message
    assert not (tmp_path / "new/.nodeinfo").exists()
    assert not (tmp_path / "new/.replisync/seed").exists()


def test_a_missing_file_is_looked_for_elsewhere_before_it_stops_an_export(
    still: Server, tmp_path: Path, secretfile: Path
) -> None:
    source = copy_serverdir(still.serverdir, tmp_path / "source")
    path = next(
        p for p in sorted(read_history(source).live_files) if p.startswith("alice/") and p.endswith(".whl")
    )
    (source / "+files" / path).unlink()
    alone = ("clone", "--serverdir", tmp_path / "new", FROM, source, "--seed", "export")
    said = run_here(*alone, code=3)
    assert path in said.message
    assert not (tmp_path / "new/.replisync/seed").exists()
    run_here(*alone, "--replica-file-search-path", still.serverdir)
    assert_same_export(still.serverdir, tmp_path / "new")
    standby = Standby(tmp_path / "standby", still.url, secretfile)
    standby.clone(FROM, source, "--seed", "export")
    assert_same_export(still.serverdir, standby.serverdir)


def test_a_damaged_file_is_looked_for_elsewhere_before_it_stops_an_export(
    still: Server, tmp_path: Path
) -> None:
    """devpi-import finds it, which reads all files; the server's own file is left as it is."""
    source = copy_serverdir(still.serverdir, tmp_path / "source")
    damaged = [
        source / "+files" / path
        for path in sorted(read_history(source).live_files)
        if (path.startswith("alice/") and path.endswith((".whl", ".doc.zip"))) or ".toxresult-" in path
    ]
    for path in damaged:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content + b"x")
    alone = ("clone", "--serverdir", tmp_path / "new", FROM, source, "--seed", "export")
    said = run_here(*alone, code=3)
    assert any(path.name in said.message for path in damaged)
    assert not (tmp_path / "new/.replisync/seed").exists()
    run_here(*alone, "--replica-file-search-path", still.serverdir)
    assert_same_export(still.serverdir, tmp_path / "new")
    assert all(path.read_bytes().endswith(b"x") for path in damaged)


def test_a_server_may_be_written_to_while_it_is_exported(
    populated: Server, tmp_path: Path, secretfile: Path
) -> None:
    """Files go between the snapshot and the links: then a newer snapshot is taken, and no change is lost."""
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    with written_to(populated, every=2):
        standby.clone(FROM, populated.serverdir, "--seed", "export")
    check_follows(populated, standby)


def test_an_export_goes_on_wherever_it_was_killed(
    damaged: Server, new: Standby, tmp_path: Path, hole: int
) -> None:
    """What was begun of the base copy, the export and the import is never taken for a whole."""
    seed = new.serverdir / ".replisync/seed"
    moments: list[Callable[[], object]] = [
        (seed / "snapshot.sqlite").exists,
        (seed / "export/snapshot/.sqlite").exists,
        lambda: list((seed / "dump").rglob("*.whl")),
        lambda: list(seed.glob("import-*/+files")),
        (seed / "imported").exists,
        (new.serverdir / "+files").exists,
    ]
    for number, moment in enumerate(moments):
        log = tmp_path / f"{number}.log"
        with Background(log, "clone", *new.new, FROM, damaged.serverdir) as run:
            wait_until(lambda: moment() or run.process.poll() is not None, 60, "the moment to kill it")  # noqa: B023
        if (new.serverdir / ".nodeinfo").exists():
            break
    if not (new.serverdir / ".nodeinfo").exists():
        new.clone(FROM, damaged.serverdir)
    assert f"serial {hole}" in new.status()["seed"]["reason"]
    check_follows(damaged, new)


def test_another_history_than_that_of_the_serverdir_is_refused(
    still: Server, populated: Server, tmp_path: Path, secretfile: Path
) -> None:
    """The server has the same UUID, and the primary's entry at the last serial is another one."""
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    source = copy_serverdir(still.serverdir, tmp_path / "source")
    with Server(source, secretfile=secretfile) as other, Client(other.url) as client:
        client.login()
        client.modify_user("root", title="another history")
    said = standby.clone(FROM, source, "--seed", "export", code=5)
    assert "behind the serverdir" in said.message
    with Client(populated.url) as client:
        client.login()
        client.modify_user("root", title="one")
        client.modify_user("root", title="two")
    said = standby.clone(FROM, source, "--seed", "export", code=5)
    assert "another entry at the last serial" in said.message
    assert not (standby.serverdir / ".nodeinfo").exists()


def test_an_export_goes_into_postgresql_too(
    damaged: Server, tmp_path: Path, secretfile: Path, postgres: Postgres
) -> None:
    """What was begun of the base copy is forgotten there too."""
    standby = PostgresStandby(tmp_path / "new", damaged.url, secretfile, postgres.database())
    standby.clone(FROM, damaged.serverdir)
    assert standby.serial == damaged.serial()
    assert len(files(standby.database)) > 20
