"""A real PostgreSQL server of the tests' own, in a temporary folder, on a port of 127.0.0.1.

The server is the machine's: found by PG_BIN, `pg_config` or PATH. PostgreSQL refuses to run as root; where we
are root it runs as the user `postgres`, or else `nobody`.
"""

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pg8000.native
import trustme

from tests.support.ports import free_port
from tests.support.waiting import wait_until

START_SECONDS = 120

_servers: "weakref.WeakSet[Postgres]" = weakref.WeakSet()


def bin_folder() -> Path:
    """Return the folder of PostgreSQL's programs; fail with a hint where there is none."""
    candidates = [os.environ.get("PG_BIN", "")]
    if shutil.which("pg_config"):
        done = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(done.stdout.strip())
    if found := shutil.which("postgres"):
        candidates.append(str(Path(found).parent))
    candidates += [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for folder in candidates:
        if folder and Path(folder, "initdb").exists() and Path(folder, "postgres").exists():
            return Path(folder)
    raise AssertionError("no PostgreSQL: install it (Debian: apt-get install postgresql), or set PG_BIN")


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Postgres:
    """One server; also a context manager that ends it and removes its data."""

    def __init__(self, below: Path | None = None, *, durable: bool = False) -> None:
        """Make the data folder, below a folder if one is given; `start` starts it.

        The superuser `admin` has a random password.
        durable: whether commits survive a power failure, which nobody but a benchmark needs here.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="replisync-pg-", dir=below))
        self._options: dict[str, object] = {} if durable else {"fsync": "off"}
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self.user = _user()
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        _servers.add(self)
        passwords = self.folder / "password"
        passwords.write_text(self.password)
        if self.user:
            shutil.chown(self.folder, self.user)
            shutil.chown(passwords, self.user)
        command = [bin_folder() / "initdb", "-D", self.data, "-U", "admin", "-A", "md5"]
        command += ["--pwfile", passwords, "-E", "UTF8", "--no-locale", "--no-sync"]
        # The order of a language, as most servers have it: `/` is not before `0` there.
        command += ["--locale-provider=icu", "--icu-locale=en-US"]
        subprocess.run(
            list(map(str, command)), user=self.user, check=True, stdout=subprocess.DEVNULL, cwd=self.folder
        )

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def address(self) -> dict[str, Any]:
        """What pg8000 finds the server by; without TLS, whose CAs take longer to load than a query."""
        return {"host": "127.0.0.1", "port": self.port, "ssl_context": False}

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "Postgres":
        """Start the server."""
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        """End the server and remove its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> "Postgres":
        """Start the server and return when it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 60,
            **self._options,
        }
        command = [str(bin_folder() / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self.user, cwd=self.folder
            )
        wait_until(self._answers, START_SECONDS, "PostgreSQL answers")
        return self

    def require_tls(self, authority: trustme.CA, clients: trustme.CA | None = None) -> None:
        """Let nobody but the superuser in without TLS; to be called before the start.

        clients: the CA whose certificates clients must show; None where they need none.
        """
        mine = authority.issue_cert("127.0.0.1")
        cert, key = self.folder / "server.pem", self.folder / "server.key"
        key.touch(0o600)
        mine.private_key_pem.write_to_path(str(key))
        mine.cert_chain_pems[0].write_to_path(str(cert))
        self._options |= {"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key}
        rule = "hostssl all all 127.0.0.1/32 md5"
        if clients is not None:
            bundle = self.folder / "clients.pem"
            clients.cert_pem.write_to_path(str(bundle))
            self._options["ssl_ca_file"] = bundle
            rule += " clientcert=verify-ca"
        for path in self.folder.glob("*.*"):
            if self.user:
                shutil.chown(path, self.user)
        (self.data / "pg_hba.conf").write_text(f"host all admin 127.0.0.1/32 md5\n{rule}\n")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-4000:]
        try:
            self.query("SELECT 1")
        except pg8000.native.Error:
            return False
        return True

    def stop(self) -> None:
        """End the server and its children at once; what was committed is recovered at a next start."""
        self._signal(signal.SIGQUIT)

    def kill(self) -> None:
        """End the server as a power failure would; its children end when they notice."""
        self._signal(signal.SIGKILL)

    def crash(self) -> None:
        """Kill the server and return when its children are gone, so that it can be started again."""
        self.kill()
        wait_until(lambda: not self._has_processes(), 30, "the children of PostgreSQL ended")

    def _has_processes(self) -> bool:
        """Tell whether a process of the server is left; a new one would not start beside it."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.readlink(entry / "cwd") == str(self.data):
                        return True
                except OSError:
                    continue
        return False

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(30)

    @contextmanager
    def connected(self, database: str = "postgres") -> Iterator[pg8000.native.Connection]:
        """Connect as the superuser."""
        connection = pg8000.native.Connection(
            "admin", database=database, password=self.password, timeout=30, **self.address
        )
        try:
            yield connection
        finally:
            connection.close()

    def query(self, statement: str, database: str = "postgres", **values: Any) -> list[list[Any]]:
        """Run one statement as the superuser."""
        with self.connected(database) as connection:
            return list(connection.run(statement, **values) or [])

    def database(self, *, scram: bool = False) -> "Database":
        """Create an empty database, with a user of its own who owns it.

        scram: have the user's password asked for by SCRAM, which costs pg8000 a hundred times what MD5 does.
        """
        self._count += 1
        name, password = f"devpi{self._count}", f"pw-{secrets.token_hex(8)}"
        with self.connected() as connection:
            connection.run(f"SET password_encryption = '{'scram-sha-256' if scram else 'md5'}'")
            connection.run(f"CREATE USER {name} PASSWORD '{password}'")
            connection.run(f"CREATE DATABASE {name} OWNER {name}")
        return Database(self, name, name, password)

    def schema(self) -> "Database":
        """Create an empty schema for a user of its own in a database of many: far quicker."""
        self._count += 1
        name, password = f"schema{self._count}", f"pw-{secrets.token_hex(8)}"
        with self.connected() as connection:
            connection.run(f"CREATE USER {name} PASSWORD '{password}'")
            # The user's schema is the first of the default search path.
            connection.run(f"CREATE SCHEMA AUTHORIZATION {name}")
        return Database(self, "postgres", name, password)


class Database:
    """One database, and how devpi-server spells it."""

    def __init__(self, server: Postgres, name: str, user: str, password: str) -> None:
        """Describe it; `Postgres.database` and `Postgres.schema` make it."""
        self.server = server
        self.name = name
        self.user = user
        self.password = password

    @property
    def spec(self) -> str:
        """The value of `--storage`, password included."""
        return f"{self.spec_without_password},password={self.password}"

    @property
    def spec_without_password(self) -> str:
        """The value of `--storage` as it may be shown."""
        return f"pg8000:host=127.0.0.1,port={self.server.port},user={self.user},database={self.name}"

    @property
    def options(self) -> dict[str, Any]:
        """What pg8000 connects with as the owner."""
        return {
            **self.server.address,
            "user": self.user,
            "database": self.name,
            "password": self.password,
        }

    def query(self, statement: str, **values: Any) -> list[list[Any]]:
        """Run one statement as the superuser."""
        return self.server.query(statement, self.name, **values)

    def scalar(self, statement: str, **values: Any) -> Any:
        """Return the only value that a statement yields."""
        [[value]] = self.query(statement, **values)
        return value

    def drop(self) -> None:
        """Remove it, with all that is in it."""
        self.server.query(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    def copy(self, name: str) -> "Database":
        """Return a copy of the same owner; nobody may be connected to this one."""
        self.server.query(f"CREATE DATABASE {name} TEMPLATE {self.name} OWNER {self.user}")
        return Database(self.server, name, self.user, self.password)


class Specified(Database):
    """A database that is spelled in another way than by host and port alone."""

    def __init__(self, database: Database, settings: str) -> None:
        """Add settings to a database's, or put them in the place of its address."""
        super().__init__(database.server, database.name, database.user, database.password)
        self.settings = settings

    @property
    def spec_without_password(self) -> str:
        """The value of `--storage` as it may be shown."""
        return f"pg8000:{self.settings},user={self.user},database={self.name}"


@atexit.register
def _kill_all() -> None:
    for server in list(_servers):
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
