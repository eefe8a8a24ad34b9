"""PostgreSQL as the target, and as the primary: exact, promotable, and never with a password in sight."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.content import Client, populate_basics, populate_private
from tests.support.devpi import Server
from tests.support.history import read_history
from tests.support.oracle import assert_equal_exports, compare_histories
from tests.support.pgstandby import (
    PostgresStandby,
    assert_fsck,
    assert_same_exports,
    export,
    files,
    files_on_disk,
    history,
    schema,
    sequence,
)
from tests.support.postgres import Database, Postgres
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Background, arguments, run_apart, run_here
from tests.support.standby import Standby
from tests.support.waiting import wait_until


@pytest.fixture
def database(postgres: Postgres) -> Database:
    """An empty database."""
    return postgres.database()


@pytest.fixture
def new(tmp_path: Path, still: Server, secretfile: Path, database: Database) -> PostgresStandby:
    """A standby of `still` in PostgreSQL, still to be made."""
    return PostgresStandby(tmp_path / "new", still.url, secretfile, database)


def test_a_clone_into_postgresql_is_its_primary_and_starts_when_promoted(
    still: Server, new: PostgresStandby, tmp_path: Path
) -> None:
    """History, keys, files and schema are right; devpi-fsck and devpi-export agree; a write gets N+1."""
    new.clone()
    compare_histories(read_history(still.serverdir), history(new.database), still.serial())
    assert_files(still, new.database)
    assert sequence(new.database) == still.serial() + 1
    copy = new.copy(tmp_path / "copy")
    assert new.promote()["storage"] == new.database.spec_without_password
    twin = PostgresStandby(copy.serverdir, new.primary_url, new.secretfile, new.database)
    assert "promoted at" in twin.catchup(code=6).message
    assert_fsck(new.serverdir, new.database.spec, tmp_path)
    assert_same_exports(still.serverdir, None, new.serverdir, new.database.spec, tmp_path)
    before = schema(new.database)
    with Server(new.serverdir, secretfile=new.secretfile, storage=new.database.spec) as promoted:
        serial = promoted.serial()
        assert serial == still.serial()
        with Client(promoted.url) as client:
            client.login()
            client.create_user("late")
        assert promoted.serial() == serial + 1
        assert schema(new.database) == before


def assert_files(primary: Server, database: Database) -> None:
    """Check that the database has the live files of a primary with SQLite, and no others."""
    live, found = read_history(primary.serverdir).live_files, files(database)
    on_disk = files_on_disk(primary.serverdir)
    assert set(found) <= set(live)
    # A deleted version of a mirror keeps its key, but the primary deletes the file.
    assert {path: found.get(path) for path in live if path in on_disk} == {
        path: found for path, found in on_disk.items() if path in live
    }


def test_the_schema_is_what_devpi_postgresql_makes(
    postgres: Postgres, new: PostgresStandby, tmp_path: Path
) -> None:
    """Columns, types, indexes and the sequence equal those of a database that devpi-init made."""
    new.clone()
    devpis = postgres.database()
    Server(tmp_path / "model", storage=devpis.spec).init()
    assert schema(new.database) == schema(devpis)


def test_a_standby_in_postgresql_follows(
    primary: Server, tmp_path: Path, secretfile: Path, database: Database
) -> None:
    """catchup and follow bring every change, replaced and deleted files too, and the sequence with it."""
    standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
    standby.clone()
    populate_private(primary)
    standby.catchup()
    assert sequence(database) == standby.serial + 1 == primary.serial() + 1
    with standby.follow() as follower, Client(primary.url) as client:
        client.login("alice", "secret")
        client.upload_wheel("alice/dev", "foo-bar", "1.0", b"once more")
        client.delete_project("alice/dev", "large")
        serial = primary.serial()
        follower.wait_for(lambda: standby.serial == serial, "the standby has it")
        assert sequence(database) == serial + 1
        follower.stop()
    compare_histories(read_history(primary.serverdir), history(database), serial)
    assert files(database) == files_on_disk(primary.serverdir)
    fields = standby.status()
    assert (fields["state"], fields["storage"]) == ("current", database.spec_without_password)
    assert fields["last_run"]["command"] == "follow"
    retained = list((standby.serverdir / ".replisync" / "retained").iterdir())
    assert len(retained) == database.scalar("SELECT count(*) FROM replisync_retained") > 0
    assert standby.promote()["serial"] == serial
    assert_fsck(standby.serverdir, database.spec, tmp_path)


def test_a_storage_is_moved_by_following_from_one_into_the_other(
    postgres: Postgres, tmp_path: Path, secretfile: Path
) -> None:
    """A primary in PostgreSQL, with gaps in its serials, goes to SQLite and to another PostgreSQL.

    As docs/postgresql.md has it: people write until the day, and go on on the promoted standby.
    """
    source = postgres.database()
    with Server(tmp_path / "primary", secretfile=secretfile, storage=source.spec).init() as primary:
        populate_basics(primary)
        leave_gaps(source, primary)
        to_sqlite = Standby(tmp_path / "sqlite", primary.url, secretfile)
        to_postgres = PostgresStandby(tmp_path / "pg", primary.url, secretfile, postgres.database())
        for standby in (to_sqlite, to_postgres):
            standby.clone()
        with to_sqlite.follow() as one, to_postgres.follow() as other:
            last = leave_gaps(source, primary)
            for standby, follower in ((to_sqlite, one), (to_postgres, other)):
                follower.wait_for(partial(standby.is_at, last), "the standby has it")
                follower.stop()
        for standby in (to_sqlite, to_postgres):
            assert "already" in standby.catchup().stdout
            standby.promote()
    compare_histories(read_history(to_sqlite.serverdir), history(to_postgres.database), last)
    assert files(to_postgres.database) == files(source) == files_on_disk(to_sqlite.serverdir)
    assert sequence(to_postgres.database) == last + 1
    wanted = export(tmp_path / "primary", source.spec, tmp_path / "wanted")
    for standby, spec in ((to_sqlite, None), (to_postgres, to_postgres.database.spec)):
        scratch = tmp_path / f"{standby.serverdir.name}-scratch"
        scratch.mkdir()
        assert_fsck(standby.serverdir, spec, scratch)
        assert_equal_exports(wanted, export(standby.serverdir, spec, scratch / "export"))
        with (
            Server(standby.serverdir, secretfile=secretfile, storage=spec) as promoted,
            Client(promoted.url) as client,
        ):
            assert promoted.serial() == last
            client.login()
            client.create_user("late")
            assert promoted.serial() == last + 1


def leave_gaps(database: Database, primary: Server) -> int:
    """Write to a primary in PostgreSQL so that serials are left out; return its last one."""
    with Client(primary.url) as client:
        client.login()
        for _ in range(3):
            database.query("SELECT nextval('changelog_serial_seq')")
            client.modify_user("basic", title=f"after gap {primary.serial()}")
    assert database.scalar("SELECT count(*) FROM changelog") < primary.serial() + 1, "there are no gaps"
    return primary.serial()


# Trouble


def assert_silent(database: Database, serverdir: Path, *texts: str) -> None:
    """Check that the password is nowhere: not in what was said, in no file, in no row of ours."""
    for text in texts:
        assert database.password not in text
    for path in serverdir.rglob("*") if serverdir.exists() else ():
        if path.is_file():
            assert database.password.encode() not in path.read_bytes(), path


def take_rights(database: Database) -> None:
    """Let the user make no tables."""
    database.query("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    database.query(f"ALTER DATABASE {database.name} OWNER TO admin")


@pytest.mark.parametrize("mistake", ["password", "no password", "database", "user", "port", "rights"])
def test_a_mistake_in_the_storage_ends_before_anything_is_written(
    new: PostgresStandby, tmp_path: Path, mistake: str
) -> None:
    """Exit 7 with a hint, no password in any output, and no serverdir."""
    database = new.database.server.database(scram=mistake != "password")
    wrong = {
        "password": database.spec + "wrong",
        "no password": database.spec_without_password,
        "database": database.spec.replace(f"database={database.name}", "database=nowhere"),
        "user": database.spec.replace(f"user={database.name}", "user=nobody"),
        "port": database.spec.replace(f"port={database.server.port}", "port=1"),
        "rights": database.spec,
    }
    if mistake == "rights":
        take_rights(database)
    options = ["--serverdir", new.serverdir, "--secretfile", new.secretfile, "--primary-url", new.primary_url]
    said = run_apart("clone", *options, "--storage", wrong[mistake], "--patience", 1, code=7)
    assert_silent(database, tmp_path, said.message, said.stdout, str(said.logs))
    if mistake != "rights":
        assert not new.serverdir.exists()


@pytest.mark.parametrize(
    "spec", ["pg8000:host", "pg8000:password=a,b=c", "pg8000:port=x", "mysql:", "sqlite:password=topsecret"]
)
def test_a_storage_that_cannot_be_read_is_a_mistake_of_the_command_line(
    new: PostgresStandby, spec: str
) -> None:
    """Exit 2, and what may be a piece of a password is not repeated."""
    options = ["--serverdir", new.serverdir, "--secretfile", new.secretfile, "--primary-url", new.primary_url]
    said = run_here("clone", *options, "--storage", spec, code=2)
    assert "b=c" not in said.message
    assert "topsecret" not in said.message
    assert not new.serverdir.exists()


def test_the_password_is_remembered_nowhere_and_may_come_from_the_environment(
    new: PostgresStandby, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Later commands take it from PGPASSWORD, from --storage or from a configuration file."""
    said = new.clone()
    assert_silent(new.database, new.serverdir, said.stdout, str(said.logs))
    rows = new.database.query("SELECT s::text FROM replisync_source s")
    assert new.database.password not in str(rows)
    assert new.database.spec_without_password in str(rows)
    plain = ("--serverdir", new.serverdir)
    assert "password" in run_here("status", *plain, "--json", code=7).message
    config = tmp_path / "replisync.toml"
    config.write_text(f'[status]\nstorage = "pg8000:password={new.database.password}"\n')
    run_here("status", *plain, before=("-c", str(config)))
    monkeypatch.setenv("PGPASSWORD", new.database.password)
    run_here("catchup", *plain, "--secretfile", new.secretfile)
    run_here("faults", "list", *plain)
    run_here("promote", *plain)


def test_a_database_that_is_in_use_is_not_cloned_into(
    new: PostgresStandby, postgres: Postgres, tmp_path: Path
) -> None:
    """Neither one of a devpi-server nor one of another standby, and not by a clone that began elsewhere."""
    devpis, refusing = postgres.database(), postgres.database()
    with Server(tmp_path / "other", storage=devpis.spec, secretfile=new.secretfile).init():
        pass
    new.clone()
    take_rights(refusing)
    second = replace(new, serverdir=tmp_path / "second")
    barely = replace(new, serverdir=tmp_path / "barely", database=refusing)
    barely.clone(code=7)
    half = replace(new, serverdir=tmp_path / "half", database=postgres.database())
    half.clone()
    (half.serverdir / ".nodeinfo").unlink()
    for begun in (second, barely, half):
        for taken in (devpis, new.database):
            before = history(taken)
            assert "not empty" in replace(begun, database=taken).clone(code=6).message
            assert history(taken) == before
    assert not second.serverdir.exists()
    assert devpis.scalar("SELECT to_regclass('replisync_schema')") is None
    half.clone()


def test_a_serverdir_is_not_used_with_another_standbys_database(
    new: PostgresStandby, postgres: Postgres, tmp_path: Path
) -> None:
    """--storage may name a new address, but not another database."""
    new.clone()
    other = PostgresStandby(tmp_path / "other", new.primary_url, new.secretfile, postgres.database())
    other.clone()
    options = ("--serverdir", new.serverdir, "--secretfile", new.secretfile)
    said = run_here("catchup", *options, "--storage", other.database.spec, code=6)
    assert "not the one that it was created with" in said.message


def test_there_is_one_writer_of_a_database(new: PostgresStandby, tmp_path: Path) -> None:
    """A copy of the serverdir, as on another machine, cannot write while `follow` runs."""
    new.clone()
    copy = new.copy(tmp_path / "copy")
    twin = PostgresStandby(copy.serverdir, new.primary_url, new.secretfile, new.database)
    with new.follow() as follower:
        assert "another replisync" in twin.catchup(code=6).message
        # devpi's own lock is free between two commits: a server of the hot standby needs it to store a file.
        free = lambda: new.database.scalar("SELECT pg_try_advisory_lock(1)") is True  # noqa: E731
        wait_until(free, 60, "devpi's own lock is free")
        follower.stop()
    twin.catchup()


def test_a_clone_goes_on_after_kills_of_itself_and_of_the_database(
    still: Server, proxy: Proxy, tmp_path: Path, secretfile: Path
) -> None:
    """After SIGKILL of either, at whatever moment, the same command ends with the primary's state."""
    proxy.add(Fault(path="/[a-z]+/[a-z]+/", delay_seconds=0.1))
    with Postgres() as server:
        database = server.database()
        new = PostgresStandby(tmp_path / "new", proxy.url, secretfile, database)
        for count in (10, 30):
            enough = partial(_has_files, database, count)
            with Background(tmp_path / "log", "clone", *new.new, "--patience", 1) as clone:
                clone.wait_for(enough, "some files are there")
                server.crash() if count == 10 else clone.kill()
                if count == 10:
                    assert clone.end(7).code == 7
            if count == 10:
                server.start()
        proxy.clear()
        new.clone()
        compare_histories(read_history(still.serverdir), history(database), still.serial())
        assert sequence(database) == still.serial() + 1
        assert_files(still, database)


def test_follow_waits_for_a_database_that_restarts(primary: Server, tmp_path: Path, secretfile: Path) -> None:
    """A database that is killed and started again is taken up where it was left, by the same process."""
    with Postgres() as server:
        database = server.database()
        standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
        standby.clone()
        with standby.follow() as follower, Client(primary.url) as client:
            client.login()
            for round_ in range(2):
                server.crash()
                client.create_user(f"user{round_}")
                follower.wait_for_log("retrying")
                server.start()
                serial = primary.serial()
                follower.wait_for(partial(standby.is_at, serial), "the standby has it", 60)
                assert sequence(database) == serial + 1
            follower.stop()
        compare_histories(read_history(primary.serverdir), history(database), serial)


def _has_files(database: Database, count: int) -> bool:
    if not database.scalar("SELECT to_regclass('files') IS NOT NULL"):
        return False
    return int(database.scalar("SELECT count(*) FROM files")) >= count


# Memory


def test_a_big_file_costs_little_memory(
    primary: Server, tmp_path: Path, secretfile: Path, database: Database
) -> None:
    """The clone of 120 MB takes at most 64 MiB more than that of a small file."""
    standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
    with Client(primary.url) as client:
        client.create_user("big")
        client.login("big", "secret")
        client.create_index("big/dev")
        client.upload("big/dev", "small", "1.0", ("small-1.0.zip", b"x"))
        small = _peak(
            PostgresStandby(tmp_path / "small", primary.url, secretfile, database.server.database())
        )
        name = "huge-1.0.zip"
        relpath = client.upload("big/dev", "huge", "1.0", (name, os.urandom(3_000_000) * 40))
    big = _peak(standby)
    assert files(database)[relpath] == files_on_disk(primary.serverdir)[relpath]
    assert big - small < 64 * 1024, f"{big} KiB, and {small} KiB with a small file"


def _peak(standby: Standby) -> int:
    """Run a clone in a process of its own; return its peak of resident memory in KiB."""
    code = (
        "import sys, pathlib, replisync.cli.app as app\n"
        "code = app.run(sys.argv[2:])\n"
        "lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "pathlib.Path(sys.argv[1]).write_text([x for x in lines if x.startswith('VmHWM')][0].split()[1])\n"
        "sys.exit(code)\n"
    )
    peak = standby.serverdir.with_name(f"{standby.serverdir.name}.peak")
    command = [sys.executable, "-c", code, str(peak), *arguments("clone", *standby.new)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return int(peak.read_text())
