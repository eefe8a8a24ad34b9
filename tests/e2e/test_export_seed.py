"""A first copy from a dump of devpi-export: followed from the primary's serial on, or on its own."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from tests.support.client import Client
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import connect, parse, read_history, serialize
from tests.support.operations import Operations
from tests.support.oracle import assert_equal_exports, assert_fsck, assert_same_export, assert_schema, export
from tests.support.pgstandby import PostgresStandby, files
from tests.support.postgres import Postgres
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Background, run_here
from tests.support.standby import Standby, changed, tree
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

# As in test_histories; REPLISYNC_TEST_OPERATIONS is how long a history is.
EXAMPLES = int(os.environ.get("REPLISYNC_TEST_EXAMPLES") or 1)
FIRST_SEED = int(os.environ.get("REPLISYNC_TEST_SEED") or 3)
OPERATIONS = int(os.environ.get("REPLISYNC_TEST_OPERATIONS") or 120)


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory, populated_serverdir: Path) -> Path:
    """A dump of the populated primary; change nothing in it."""
    return export(populated_serverdir, tmp_path_factory.mktemp("dump") / "dump", mirrored=False)


def check(primary: Server, standby: Standby) -> None:
    """Check that a standby says what its primary says, with as many serials, and is one that devpi takes."""
    ours = read_history(standby.serverdir)
    assert ours.last_serial == primary.serial()
    assert sorted(ours.changelog) == list(range(primary.serial() + 1))
    kv = {key: (name, serial) for key, (name, serial, _) in ours.latest().items()}
    assert kv == ours.kv
    for serial in ours.changelog:
        for key, (_, back_serial, _) in ours.changes(serial).items():
            assert back_serial < serial
            assert back_serial < 0 or key in ours.changes(back_serial), f"{key} at {serial}"
    assert_schema(standby.serverdir)
    assert_fsck(standby.serverdir)
    assert_same_export(primary.serverdir, standby.serverdir)


def test_a_dump_becomes_a_server_of_its_own(dump: Path, tmp_path: Path, secretfile: Path) -> None:
    """It is what devpi-import makes, startable at once, and exports what was imported."""
    target = tmp_path / "copy"
    said = run_here("clone", "--serverdir", target, "--from-export", dump, "--no-root-pypi", "--hard-links")
    assert "standalone server" in said.stdout
    assert not (target / ".replisync/seed").exists()
    assert not list(target.glob(".sqlite-*"))
    assert_fsck(target)
    assert_equal_exports(dump, export(target, tmp_path / "again", mirrored=False))
    history = read_history(target)
    assert (target / ".event_serial").read_text() == str(history.last_serial + 1)
    assert any((target / "+files" / path).stat().st_nlink > 1 for path in history.live_files)
    status = json.loads(run_here("status", "--serverdir", target, "--json").stdout)
    assert (status["state"], status["seed"]["kind"]) == ("promoted", "export")
    run_here("verify", "--serverdir", target, "--level", "full")
    assert "it has none" in run_here("verify", "--serverdir", target, "--level", "primary", code=2).message
    with Server(target, role="standalone", secretfile=secretfile) as server, Client(server.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "after", "1.0")
    assert "devpi-fsck" in run_here("verify", "--serverdir", target, code=6).message


def test_devpi_imports_own_options_have_their_effect(dump: Path, tmp_path: Path) -> None:
    """Serials end where they are told to; without events all of them are left to the first start."""
    target = tmp_path / "copy"
    run_here("clone", "--serverdir", target, "--from-export", dump, "--no-events", "--at-serial", "500")
    assert not (target / ".event_serial").exists()
    history = read_history(target)
    assert sorted(history.changelog) == list(range(501))
    assert "pypi" in history.latest()["root/.config"][2]["indexes"]
    run_here("verify", "--serverdir", target, "--level", "full")
    assert_fsck(target)


def test_a_standby_from_a_dump_follows_its_primary(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path
) -> None:
    """What was imported may change, be replaced and deleted; mirrors are asked for afresh when promoted."""
    serial = populated.serial()
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    with Client(populated.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "later", "1.0")
        standby.clone("--from-export", dump, "--at-serial", serial)
        seed = standby.status()["seed"]
        assert (seed["kind"], seed["serial"]) == ("export", serial)
        check(populated, standby)
        standby.catchup()
        client.modify_index("alice/dev", "title=changed")
        for key, (name, _, value) in sorted(read_history(populated.serverdir).latest().items()):
            if name == "PROJVERSION" and value and key.startswith("alice/dev/"):
                if len(value["name"]) % 2:
                    client.delete_version("alice/dev", value["name"], value["version"])
                else:
                    client.register("alice/dev", value["name"], value["version"], summary="changed")
        assert standby.catchup().stdout
        client.delete_index("alice/dev")
    with Client(populated.url) as client:
        client.login()
        client.refresh("root/mirror", "plain")
    standby.catchup()
    check(populated, standby)
    assert [key for key in read_history(standby.serverdir).kv if key.startswith("root/mirror/")] == []
    verify_and_mend(populated, standby, serial)
    standby.promote()
    with Server(standby.serverdir, secretfile=secretfile) as promoted, Client(promoted.url) as client:
        links = client.links("root/mirror", "plain")
        assert links
        assert client.fetch(sorted(links.values())[0])


def verify_and_mend(primary: Server, standby: Standby, seed: int) -> None:
    """Check that a standby is right beside its primary, and can be mended as far as the primary has it."""
    report = standby.verify("primary")
    # The primary may go on by itself: it commits what it fetched for a mirror a moment later.
    last = standby.serial
    assert (report["serial"], report["checked"]["primary_entries"]) == (last, last - seed)
    before = read_history(standby.serverdir).changelog
    chained = next(
        serial
        for serial in range(seed - 1, 0, -1)
        if any(back >= 0 for _, back, _ in parse(before[serial])[0].values())
    )
    with closing(connect(standby.serverdir, write=True)) as database, database:
        database.execute("DELETE FROM changelog WHERE serial IN (?, ?)", (seed + 2, last))
        changes = {key: (name, -1, value) for key, (name, _, value) in parse(before[chained])[0].items()}
        data = serialize((changes, []))
        database.execute("UPDATE changelog SET data = ? WHERE serial = ?", (data, chained))
    assert standby.verify("primary", "--repair")["outcome"] == "repaired"
    standby.catchup()
    check(primary, standby)
    after = read_history(standby.serverdir).changelog
    assert {serial: parse(after[serial]) for serial in before} == {
        serial: parse(data) for serial, data in before.items()
    }


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + EXAMPLES))
def test_long_histories_after_an_export_converge(
    primary: Server, upstream: Upstream, tmp_path: Path, secretfile: Path, seed: int
) -> None:
    """Random changes before, between and after, then to every key; the oracle is the primary's own export."""
    operations = Operations(primary, upstream, Random(seed), circles=False)  # noqa: S311

    def go_on(share: float) -> None:
        for _ in range(round(OPERATIONS * share)):
            operations.one()

    with closing(operations):
        go_on(0.4)
        serial = primary.serial()
        dump = export(primary.serverdir, tmp_path / "dump", mirrored=False)
        go_on(0.2)
        standby = Standby(tmp_path / "new", primary.url, secretfile)
        standby.clone("--from-export", dump, "--at-serial", serial)
        imported = set(read_history(standby.serverdir).latest(serial))
        try:
            for _ in range(4):
                go_on(0.1)
                standby.catchup()
            check(primary, standby)
            operations.change_everything()
            standby.catchup()
            check(primary, standby)
            untouched = {
                key for key, (_, last) in read_history(standby.serverdir).kv.items() if last <= serial
            }
            assert untouched & imported == set()
            check_promoted(primary, standby)
        except AssertionError as err:
            raise AssertionError("\n".join([*operations.done, str(err)])) from err


def check_promoted(primary: Server, standby: Standby) -> None:
    """Check that a promoted standby serves what its primary does, and takes uploads."""
    standby.promote("--accept-loss")
    promoted = Server(standby.serverdir, secretfile=standby.secretfile)
    with Client(primary.url) as theirs, promoted, Client(promoted.url) as ours:
        theirs.login()
        ours.login()
        assert ours.users() == theirs.users()
        projects = {
            (f"{user}/{index}", project)
            for user, config in theirs.users().items()
            for index, settings in config["indexes"].items()
            if settings["type"] == "stage"
            for project in theirs.index_config(f"{user}/{index}")["projects"]
        }
        for index, project in projects:
            links = theirs.links(index, project)
            assert ours.links(index, project) == links
            for relpath in links.values():
                assert ours.fetch(relpath) == theirs.fetch(relpath)
        ours.create_index("root/after", volatile=True)
        ours.upload_wheel("root/after", "after", "1.0")


@pytest.mark.parametrize("behind", [0, 1])
def test_an_import_that_is_longer_than_the_history_fits(
    primary: Server, tmp_path: Path, secretfile: Path, behind: int
) -> None:
    """A small server has fewer serials than devpi-import makes of it."""
    with Client(primary.url) as client:
        client.login()
        client.create_index("root/dev")
        client.upload_wheel("root/dev", "small", "1.0")
        serial = primary.serial()
        dump = export(primary.serverdir, tmp_path / "dump")
        client.upload_wheel("root/dev", "small", "1.1")
    standby = Standby(tmp_path / "new", primary.url, secretfile)
    standby.clone("--from-export", dump, "--at-serial", serial - behind)
    standby.catchup()
    check(primary, standby)


def test_the_identity_of_a_rebased_standby_is_checked(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path
) -> None:
    """The entry at its serial is not the primary's, but the primary's own is remembered."""
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    serial = populated.serial()
    said = standby.clone("--from-export", dump, "--at-serial", serial + 1, code=2)
    assert "--at-serial" in said.message
    assert "--at-serial is needed" in standby.clone("--from-export", dump, code=2).message
    assert not standby.serverdir.exists()
    standby.clone("--from-export", dump, "--at-serial", serial)
    with Client(populated.url) as client:
        client.login()
        client.modify_user("root", title="one")
        standby.catchup()
        for title in ("two", "three"):
            copy = copy_serverdir(populated.serverdir, tmp_path / f"before-{title}")
            client.modify_user("root", title=title)
    standby.catchup()
    before = tree(standby.serverdir / "+files")
    populated.stop()
    with Server(copy, secretfile=secretfile) as restored, Client(restored.url) as client:
        client.login()
        client.modify_user("root", title="another")
        client.modify_user("root", title="history")
        said = standby.catchup("--primary-url", restored.url, code=5)
    assert "another entry at our last serial" in said.message
    assert changed(before, standby.serverdir / "+files") == []


def test_a_dump_that_is_older_than_its_serial_becomes_no_standby(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path
) -> None:
    """Uploads and deletions after it tell; one that a later change replaces does not."""
    before = populated.serial()
    with Client(populated.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "younger", "1.0")
        uploaded = populated.serial()
        old = Standby(tmp_path / "old", populated.url, secretfile)
        said = old.clone("--from-export", dump, "--at-serial", uploaded, code=5)
        assert "the primary has the release alice/dev/younger/1.0" in said.message
        assert not (old.serverdir / ".nodeinfo").exists()
        client.delete_project("alice/dev", "younger")
    for name, serial in (("replaced", uploaded), ("before", before)):
        standby = Standby(tmp_path / name, populated.url, secretfile)
        standby.clone("--from-export", dump, "--at-serial", serial)
        check(populated, standby)


def test_an_index_that_was_a_mirror_for_a_while_is_no_finding(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path
) -> None:
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    standby.clone("--from-export", dump, "--at-serial", populated.serial())
    with Client(populated.url) as client:
        client.login("alice", "secret")
        index = "alice/changing"
        client.create_index(index, type="stage")
        client.upload_wheel(index, "some", "1.0")
        client.delete_index(index)
        for title in ("one", "two"):
            client.create_index(index, type="mirror", mirror_url="http://127.0.0.1:1/")
            client.modify_index(index, f"title={title}")
            client.delete_index(index)
    standby.catchup()
    run_here("verify", "--serverdir", standby.serverdir, "--level", "primary", "--secretfile", secretfile)


def _no_json(dump: Path) -> None:
    (dump / "dataindex.json").write_text("{")


def _no_file(dump: Path) -> None:
    next(dump.rglob("*.whl")).unlink()


def _wrong_file(dump: Path) -> None:
    next(dump.rglob("*.whl")).write_bytes(b"wrong")


def _version(dump: Path) -> None:
    index = json.loads((dump / "dataindex.json").read_bytes())
    (dump / "dataindex.json").write_text(json.dumps({**index, "dumpversion": "0"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_no_json, "JSON"), (_no_file, "is missing"), (_wrong_file, "mismatch"), (_version, "dumpversion")],
)
def test_what_devpi_import_refuses_is_said_in_its_own_words(
    dump: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    spoiled = shutil.copytree(dump, tmp_path / "dump")
    damage(spoiled)
    said = run_here("clone", "--serverdir", tmp_path / "new", "--from-export", spoiled, code=6)
    assert words in said.message
    assert "devpi-import says" in said.message
    assert not (tmp_path / "new/.replisync/seed").exists()
    if damage is _no_json:
        run_here(
            "clone", "--serverdir", tmp_path / "new", "--from-export", dump, "--no-events", "--no-root-pypi"
        )
        assert_fsck(tmp_path / "new")


def test_what_cannot_be_is_refused_before_anything_is_written(
    still: Server, dump: Path, tmp_path: Path
) -> None:
    new = ("--serverdir", tmp_path / "new")
    assert "not a dump" in run_here("clone", *new, "--from-export", tmp_path, code=2).message
    run_here("clone", *new, "--from-export", dump, "--from-serverdir", still.serverdir, code=2)
    assert "--from-export" in run_here("clone", *new, "--at-serial", 3, code=2).message
    assert not (tmp_path / "new").exists()


@pytest.fixture
def moments(tmp_path: Path) -> list[Callable[[], object]]:
    """What is there in `new` one after the other while a dump is imported."""
    new = tmp_path / "new"

    def serial() -> int:
        with closing(connect(new)) as database:
            [(found,)] = database.execute("SELECT max(serial) FROM changelog").fetchall()
        return found or 0

    return [
        lambda: list(new.glob(".replisync/seed/import-*/+files")),
        (new / ".replisync/seed/imported").exists,
        lambda: (new / "+files").exists() or serial() >= 100,
    ]


def working_below(folder: Path) -> list[str]:
    """Return the command lines of processes that name something in a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if f"{folder}/" in line]


def test_what_another_command_imported_is_not_taken(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path
) -> None:
    """Neither with other options nor of a dump that was replaced; the command that began it goes on."""
    used = shutil.copytree(dump, tmp_path / "dump")
    index = (used / "dataindex.json").read_bytes()
    times = os.stat(used / "dataindex.json")
    serial = populated.serial()
    with Proxy(populated.url) as proxy:
        standby = Standby(tmp_path / "new", proxy.url, secretfile)
        source = ("--from-export", used, "--at-serial", serial, "--patience", 0.1)
        # What is asked for when the import is complete.
        fault = proxy.add(Fault(path=rf"/\+changelog/{serial}", status=503))
        standby.clone(*source, code=3)
        assert fault.done
        (used / "dataindex.json").write_bytes(index + b"\n")
        assert "another dump" in standby.clone(*source, code=6).message
        (used / "dataindex.json").write_bytes(index)
        os.utime(used / "dataindex.json", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert "other options" in standby.clone(*source, "--no-events", code=6).message
        proxy.clear()
        standby.clone(*source)
    assert serial == standby.serial


def test_a_clone_from_a_dump_goes_on_wherever_it_was_killed(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path, moments: list[Callable[[], object]]
) -> None:
    """An import that was complete is not made again; nothing of it is left at the end."""
    standby = Standby(tmp_path / "new", populated.url, secretfile)
    source = (*standby.new, "--from-export", dump, "--at-serial", populated.serial())
    for number, moment in enumerate(moments):
        with Background(tmp_path / f"{number}.log", "clone", *source) as run:
            wait_until(lambda: run.process.poll() is not None or moment(), 60, "the moment to kill it")  # noqa: B023
        wait_until(lambda: not working_below(standby.serverdir), 10, "nothing of it lives on")
    if not (standby.serverdir / ".nodeinfo").exists():
        run_here("clone", *source)
    assert not (standby.serverdir / ".replisync/seed").exists()
    check(populated, standby)


def test_a_dump_goes_into_postgresql_too(
    populated: Server, dump: Path, tmp_path: Path, secretfile: Path, postgres: Postgres
) -> None:
    standby = PostgresStandby(tmp_path / "new", populated.url, secretfile, postgres.database())
    standby.clone("--from-export", dump, "--at-serial", populated.serial())
    standby.catchup()
    assert standby.serial == populated.serial()
    assert len(files(standby.database)) > 20
