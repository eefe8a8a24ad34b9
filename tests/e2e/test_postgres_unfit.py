"""PostgreSQL servers on which a devpi-server would not start, or a lock would be lost: refused in time."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.devpi import Server
from tests.support.pgstandby import PostgresStandby
from tests.support.ports import free_port
from tests.support.postgres import Database, Postgres, Specified, bin_folder
from tests.support.waiting import wait_until

C = "LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER 'libc'"


@pytest.mark.parametrize("encoding", ["LATIN1", "LATIN9", "WIN1252", "EUC_JP", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_name_is_refused_before_anything_is_written(
    still: Server, postgres: Postgres, tmp_path: Path, secretfile: Path, encoding: str
) -> None:
    owner = postgres.database()
    name = f"{owner.name}_{encoding.lower()}"
    postgres.query(f"CREATE DATABASE {name} OWNER {owner.user} ENCODING '{encoding}' TEMPLATE template0 {C}")
    database = Database(postgres, name, owner.user, owner.password)
    standby = PostgresStandby(tmp_path / "new", still.url, secretfile, database)
    said = standby.clone(code=6)
    assert f"its encoding is {encoding}, but names of files need UTF8. Create a database with" in said.message
    assert not standby.serverdir.exists()
    assert database.scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


@pytest.mark.parametrize("named", [True, False])
def test_a_search_path_that_devpi_server_does_not_follow_is_refused(
    still: Server, postgres: Postgres, tmp_path: Path, secretfile: Path, named: bool
) -> None:
    """A schema named like the user, or a search_path of the role."""
    database = postgres.database()
    schema = database.user if named else "elsewhere"
    database.query(f"CREATE SCHEMA {schema} AUTHORIZATION {database.user}")
    if not named:
        database.query(f"ALTER ROLE {database.user} SET search_path = {schema}")
    standby = PostgresStandby(tmp_path / "new", still.url, secretfile, database)
    said = standby.clone(code=6)
    assert (
        f"new tables go into the schema {schema}, but devpi-server looks for them in public" in said.message
    )
    assert not standby.serverdir.exists()
    database.query(f"ALTER ROLE {database.user} SET search_path = public")
    standby.clone()
    database.query(f"ALTER ROLE {database.user} SET search_path = {schema}, public")
    refused = standby.promote(code=6)
    assert f"new tables go into the schema {schema}" in refused["error"]
    database.query(f"ALTER ROLE {database.user} SET search_path = public")
    standby.promote()
    with Server(standby.serverdir, secretfile=secretfile, storage=database.spec) as server:
        assert server.serial() == still.serial()


@contextmanager
def pooler(database: Database, folder: Path, mode: str) -> Iterator[Database]:
    """Run PgBouncer before a database."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("there is no pgbouncer (Debian: apt-get install pgbouncer)")
    port, server = free_port(), database.server
    (folder / "users").write_text(f'"{database.user}" "{database.password}"\n')
    (folder / "ini").write_text(
        f"[databases]\n{database.name} = host=127.0.0.1 port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = md5\n"
        f"auth_file = {folder}/users\npool_mode = {mode}\nunix_socket_dir =\n"
    )
    folder.chmod(0o755)
    process = subprocess.Popen(
        ["pgbouncer", str(folder / "ini")],
        user=server.user,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), 30, "PgBouncer answers")
        yield Specified(database, f"host=127.0.0.1,port={port}")
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Return whether a port accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the user of PostgreSQL can read."""
    folder = Path(bin_folder().anchor, "tmp", f"replisync-pooler-{free_port()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_pooler_that_shares_sessions_is_refused(
    still: Server, postgres: Postgres, tmp_path: Path, secretfile: Path, place: Path
) -> None:
    """The lock of the writer would belong to whichever client is next."""
    with pooler(postgres.database(), place, "transaction") as database:
        standby = PostgresStandby(tmp_path / "new", still.url, secretfile, database)
        said = standby.clone(code=6)
        assert "shares sessions between transactions, which loses locks" in said.message
        assert "use session pooling" in said.message


def test_a_pooler_that_gives_each_client_a_session_can_be_used(
    still: Server, postgres: Postgres, tmp_path: Path, secretfile: Path, place: Path
) -> None:
    with pooler(postgres.database(), place, "session") as database:
        standby = PostgresStandby(tmp_path / "new", still.url, secretfile, database)
        standby.clone()
        standby.catchup()
        assert standby.serial == still.serial()


class Relay:
    """A way to a port that keeps the server's side of each connection open, as a lost network does."""

    def __init__(self, port: int) -> None:
        """Listen, and relay to a port."""
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._kept += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        """Close all connections."""
        self._listener.close()
        for one in self._kept:
            one.close()


def test_a_session_that_a_lost_network_left_is_ended_by_the_next_run(
    still: Server, postgres: Postgres, tmp_path: Path, secretfile: Path
) -> None:
    """It is this standby's own: a copy of its folder may not end it."""
    relay = Relay(postgres.port)
    database = postgres.database()
    try:
        lost = PostgresStandby(
            tmp_path / "new", still.url, secretfile, Specified(database, f"host=127.0.0.1,port={relay.port}")
        )
        lost.clone()
        with lost.follow() as follower:
            follower.wait_for_log("following")
            copied = PostgresStandby(
                copy(lost.serverdir, tmp_path / "copy"), still.url, secretfile, lost.database
            )
            assert "another replisync writes to it" in copied.catchup(code=6).message
            follower.process.kill()
            follower.process.wait(30)
        assert sessions(database) == 1, "it is still there, with its lock"
        said = lost.catchup()
        assert [line["event"] for line in said.logs if line["level"] == "warning"] == [
            "a lost session of this standby held the lock of the database: it was ended"
        ]
        assert "another replisync" not in copied.catchup().message
    finally:
        relay.close()


def sessions(database: Database) -> int:
    """Count the sessions of a database's user."""
    return int(
        database.scalar("SELECT count(*) FROM pg_stat_activity WHERE usename = :user", user=database.user)
    )


def copy(source: Path, target: Path) -> Path:
    """Return a copy of a serverdir."""
    shutil.copytree(source, target)
    return target
