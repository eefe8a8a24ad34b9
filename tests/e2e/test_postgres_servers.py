"""PostgreSQL servers as operators have them: TLS, a socket, a full disk, an end in the middle of a commit."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trustme

from tests.support.content import Client
from tests.support.devpi import Server
from tests.support.disk import SmallDisk, small_disk
from tests.support.history import read_history
from tests.support.oracle import compare_histories
from tests.support.pgstandby import PostgresStandby, files, files_on_disk, history, sequence
from tests.support.postgres import Postgres, Specified
from tests.support.runs import Background
from tests.support.waiting import wait_until

DISK_KIB = 160 * 1024


@pytest.fixture
def server() -> Postgres:
    """A PostgreSQL of the test's own, which runs as a context manager."""
    return Postgres()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A file system that the user of PostgreSQL can reach."""
    place = Path(tempfile.mkdtemp(prefix="replisync-disk-"))
    place.chmod(0o755)
    try:
        with small_disk(place / "disk", DISK_KIB) as disk:
            disk.root.chmod(0o755)
            yield disk
    finally:
        shutil.rmtree(place, ignore_errors=True)


def assert_equal(primary: Server, standby: PostgresStandby) -> None:
    """Check that history, files and sequence are the primary's."""
    compare_histories(read_history(primary.serverdir), history(standby.database), primary.serial())
    assert files(standby.database) == files_on_disk(primary.serverdir)
    assert sequence(standby.database) == primary.serial() + 1


def upload(primary: Server, version: str, size: int = 1000) -> None:
    """Commit a release."""
    with Client(primary.url) as client:
        client.login()
        if version == "1.0":
            client.create_index("root/dev", volatile=True)
        client.upload_wheel("root/dev", "pkg", version, Random(version).randbytes(size))  # noqa: S311


def test_a_server_that_wants_tls_and_a_certificate(
    primary: Server, server: Postgres, tmp_path: Path, secretfile: Path
) -> None:
    """All of devpi's ssl_ settings work; a wrong CA or no certificate ends with 7, and nothing is written."""
    authority, other = trustme.CA(), trustme.CA()
    server.require_tls(authority, clients=authority)
    ca, wrong, cert, key = (tmp_path / name for name in ("ca.pem", "wrong.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(ca))
    other.cert_pem.write_to_path(str(wrong))
    mine = authority.issue_cert("standby@example.com")
    mine.cert_chain_pems[0].write_to_path(str(cert))
    key.touch(0o600)
    mine.private_key_pem.write_to_path(str(key))
    upload(primary, "1.0")
    with server:
        database = server.database()
        address = f"host=127.0.0.1,port={server.port}"
        for settings in (
            address,
            f"{address},ssl_ca_certs={ca}",
            f"{address},ssl_ca_certs={wrong},ssl_certfile={cert},ssl_keyfile={key}",
        ):
            refused = PostgresStandby(
                tmp_path / "refused", primary.url, secretfile, Specified(database, settings)
            )
            said = refused.clone("--patience", 1, code=7)
            assert database.password not in said.message
            assert not refused.serverdir.exists()
        whole = Specified(database, f"{address},ssl_ca_certs={ca},ssl_certfile={cert},ssl_keyfile={key}")
        standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, whole)
        standby.clone()
        upload(primary, "1.1")
        standby.catchup()
        assert_equal(primary, standby)
        standby.promote()
        with Server(standby.serverdir, secretfile=secretfile, storage=whole.spec) as promoted:
            assert promoted.serial() == primary.serial()


def test_a_server_behind_a_socket(
    primary: Server, postgres: Postgres, tmp_path: Path, secretfile: Path
) -> None:
    """unix_sock takes the place of host and port."""
    path = postgres.folder / f".s.PGSQL.{postgres.port}"
    database = Specified(postgres.database(), f"unix_sock={path}")
    standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
    upload(primary, "1.0")
    standby.clone()
    assert_equal(primary, standby)
    assert standby.status()["storage"] == database.spec_without_password


def test_a_database_whose_disk_is_full(
    primary: Server, disk: SmallDisk, tmp_path: Path, secretfile: Path
) -> None:
    """catchup ends with 7 and the standby is what it was; follow waits for room, and both go on."""
    with Postgres(disk.root) as server:
        standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, server.database())
        upload(primary, "1.0")
        standby.clone()
        for number, left in enumerate((0, 300_000)):
            before = history(standby.database)
            upload(primary, f"2.{number}", 3_000_000)
            filler = disk.fill(left)
            said = standby.catchup("--patience", 1, code=7)
            assert "make room" in said.message
            assert history(standby.database) == before
            with standby.follow() as follower:
                follower.wait_for_log("retrying")
                assert "make room" in follower.text
                filler.unlink()
                serial = primary.serial()
                follower.wait_for(partial(standby.is_at, serial), "the standby has it", 60)
                follower.stop()
            assert_equal(primary, standby)


@pytest.mark.parametrize("killed", ["database", "replisync"])
def test_an_end_in_the_middle_of_a_commit(
    primary: Server, server: Postgres, tmp_path: Path, secretfile: Path, killed: str
) -> None:
    """A transaction that is held up half-way and then cut off is none; the next run makes it."""
    upload(primary, "1.0")
    with server:
        database = server.database()
        standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
        standby.clone()
        before = history(database)
        upload(primary, "1.1")
        with server.connected(database.name) as other:
            other.run("BEGIN; LOCK TABLE kv IN EXCLUSIVE MODE")
            options = (*standby.with_secret, "--patience", 1)
            with Background(tmp_path / "log", "catchup", *options) as catchup:
                waits = "SELECT count(*) FROM pg_locks WHERE relation = 'kv'::regclass AND NOT granted"
                catchup.wait_for(lambda: database.scalar(waits), "the commit waits for the table")
                if killed == "database":
                    children = processes(server)
                    server.kill()
                    assert catchup.end(7).code == 7
                    wait_until(lambda: not any(map(lives, children)), 60, "the children ended")
                    server.start()
                else:
                    catchup.kill()
                    other.run("COMMIT")
        assert history(database) == before
        standby.catchup()
        assert_equal(primary, standby)


def processes(server: Postgres) -> list[int]:
    """Return the process ids of a server's children."""
    return [pid for (pid,) in server.query("SELECT pid FROM pg_stat_activity")]


def lives(pid: int) -> bool:
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()


def test_a_hot_standby_in_postgresql_serves_and_relays(
    primary: Server, postgres: Postgres, tmp_path: Path, secretfile: Path
) -> None:
    """Reads are answered from the database, and an upload that goes through it is there when it returns."""
    upload(primary, "1.0")
    database = postgres.database()
    standby = PostgresStandby(tmp_path / "new", primary.url, secretfile, database)
    standby.clone()
    worker = Server(
        standby.serverdir,
        role="replica",
        secretfile=secretfile,
        primary_url=primary.url,
        requests_only=True,
        web=True,
        storage=database.spec,
    )
    with standby.follow() as follower, worker, Client(worker.url) as client:
        client.login()
        for version in ("1.1", "1.2"):
            relpath = client.upload_wheel("root/dev", "pkg", version, version.encode() * 500)
            serial = standby.serial
            assert serial == primary.serial()
            assert client.fetch(relpath)
            assert relpath in files(database)
        assert client.json("GET", "/+status")["serial"] == serial
        page = client.http.get("/root/dev", headers={"Accept": "text/html"})
        assert page.status_code == 200
        follower.stop()
    assert_equal(primary, standby)
