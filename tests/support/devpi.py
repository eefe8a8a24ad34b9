"""A real devpi-server as a subprocess on a port of 127.0.0.1."""

import atexit
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import uuid
import weakref
from collections.abc import Sequence
from contextlib import closing
from email.message import Message
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

from tests.support import forked
from tests.support.ports import free_port, is_free
from tests.support.releases import FAST_ARGON2, Release, current_release, run_tool
from tests.support.waiting import wait_until

__all__ = ["FAST_ARGON2", "Server", "copy_serverdir", "make_secret", "run_tool"]

LAUNCHER = Path(__file__).with_name("devpi_launcher.py")
LAUNCHER_MODULE = "tests.support.devpi_launcher"
START_SECONDS = 120
STOP_SECONDS = 20
ANSWER_SECONDS = 60
LOG_TAIL_CHARS = 4_000

# What devpi-init made of nothing, with and without root/pypi.
_models: dict[bool, Path] = {}

_servers: "weakref.WeakSet[Server]" = weakref.WeakSet()


class Server:
    """One devpi-server with its serverdir, port and log; also a context manager that stops it."""

    def __init__(
        self,
        serverdir: Path,
        *,
        role: str = "primary",
        secretfile: Path | None = None,
        primary_url: str | None = None,
        requests_only: bool = False,
        storage: str | None = None,
        extra_args: Sequence[str] = (),
        release: Release | None = None,
        web: bool = False,
        fast_argon2: bool = True,
        port: int | None = None,
        clock_shift: float = 0,
        user: int | None = None,
    ) -> None:
        """Describe the server; nothing runs before `start`. Its clock is `clock_shift` seconds ahead.

        user: whose process it is, where it is not ours.
        """
        self.user = user
        self.serverdir = serverdir
        self.role = role
        self.secretfile = secretfile
        self.primary_url = primary_url
        self.requests_only = requests_only
        self.storage = storage
        self.extra_args = tuple(extra_args)
        self.release = release or current_release()
        self.web = web
        self.fast_argon2 = fast_argon2
        self.port = port or free_port()
        self.clock_shift = clock_shift
        self.log_path = serverdir.with_name(serverdir.name + ".log")
        self._process: subprocess.Popen[bytes] | forked.Forked | None = None
        _servers.add(self)

    def __enter__(self) -> "Server":
        """Start the server unless it runs."""
        if not self.running:
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the server."""
        self.stop()

    @property
    def url(self) -> str:
        """The server's root URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def init(self, *, root_pypi: bool = False) -> "Server":
        """Create the serverdir with devpi-init; one like others is a copy of the first, with its own UUID."""
        plain = self.role != "replica" and self.storage is None and self.release == current_release()
        model = _models.get(root_pypi) if plain else None
        if model is not None:
            copy_serverdir(model, self.serverdir)
            nodeinfo = {**self.nodeinfo(), "uuid": uuid.uuid4().hex}
            (self.serverdir / ".nodeinfo").write_text(json.dumps(nodeinfo, indent=2))
            return self
        self._run_init(root_pypi=root_pypi)
        if plain:
            folder = tempfile.TemporaryDirectory(prefix="devpi-model-")
            atexit.register(folder.cleanup)
            _models[root_pypi] = copy_serverdir(self.serverdir, Path(folder.name) / "server")
        return self

    def _run_init(self, *, root_pypi: bool) -> None:
        args = ["--serverdir", str(self.serverdir)]
        if self.role == "replica":
            args += self._role_args()
        else:
            args += [] if root_pypi else ["--no-root-pypi"]
        args += self._storage_args()
        run_tool(*self.release.init_command, *args, release=self.release)

    def start(self) -> "Server":
        """Start the process and return when it answers HTTP."""
        assert not self.running, "the server runs already"
        # Otherwise the answer that we wait for could come from somebody else.
        assert is_free(self.port), f"port {self.port}: Address already in use"
        self._process = self._forked() if self._may_be_forked() else self._spawned()
        try:
            wait_until(self._answers, START_SECONDS, f"devpi-server at {self.url} answers")
        except BaseException:
            self.kill()
            raise
        return self

    def _may_be_forked(self) -> bool:
        if self.user is not None:
            return True  # the interpreter may lie where that user may not look
        return forked.wanted() and self.release == current_release() and not self.clock_shift

    def _forked(self) -> forked.Forked:
        program = "run_full" if self.web else "run_lean"
        arguments = ["devpi-server", *self._arguments()]
        return forked.Forked(
            f"{LAUNCHER_MODULE}:{program}", arguments, self.log_path, ends_with_us=True, user=self.user
        )

    def _spawned(self) -> subprocess.Popen[bytes]:
        mode = "--lean" if self.release.has_web and not self.web else "--full"
        shift = [f"--clock-shift={self.clock_shift}"] if self.clock_shift else []
        command = [str(self.release.python), str(LAUNCHER), *shift, mode, *self._arguments()]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """End the process politely, by force after a deadline; a stopped server stays as it is."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the process at once, as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self) -> "Server":
        """Stop the server and start it on the same port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze the process: connections are accepted by the kernel but never answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def headers(self) -> Message:
        """Return the headers of a cheap answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with closing(connection):
            connection.request("GET", "/+api", headers={"Accept": "application/json"})
            return connection.getresponse().headers

    def serial(self) -> int:
        """Return the last committed serial, as the server says."""
        return int(self._header("X-DEVPI-SERIAL"))

    def uuid(self) -> str:
        """Return the server's own UUID."""
        return self._header("X-DEVPI-UUID")

    def nodeinfo(self) -> dict[str, str]:
        """Return the content of `.nodeinfo`."""
        info: dict[str, str] = json.loads((self.serverdir / ".nodeinfo").read_bytes())
        return info

    def event_serial(self) -> int:
        """Return the last serial whose events were processed, -1 if none."""
        path = self.serverdir / ".event_serial"
        return int(path.read_text() or "0") - 1 if path.exists() else -1

    def wait_for_serial(self, serial: int, deadline_seconds: float = 60) -> None:
        """Return when the server has committed the serial."""
        wait_until(lambda: self.serial() >= serial, deadline_seconds, f"{self.url} reaches serial {serial}")

    def wait_for_events(self, deadline_seconds: float = 60) -> None:
        """Return when the server has processed the events of its last serial."""
        done = lambda: self.event_serial() >= self.serial()  # noqa: E731
        wait_until(done, deadline_seconds, f"{self.url} has processed its events")

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text[-LOG_TAIL_CHARS:]

    def _header(self, name: str) -> str:
        value = self.headers().get(name)
        assert value is not None, f"{self.url} sent no {name}"
        return value

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            code = self._process.returncode
            raise AssertionError(f"devpi-server ended with {code}:\n{self.log_tail()}")
        try:
            self.headers()
        except (OSError, HTTPException):
            return False
        return True

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        if isinstance(self._process, subprocess.Popen) and self._process.stdin is not None:
            self._process.stdin.close()

    def _arguments(self) -> list[str]:
        args = ["--serverdir", str(self.serverdir), "--host", "127.0.0.1", "--port", str(self.port)]
        args += self._role_args()
        args += self._storage_args()
        if self.secretfile is not None:
            args += ["--secretfile", str(self.secretfile)]
        if self.requests_only:
            args.append("--requests-only")
        if self.fast_argon2 and self.release.has_argon2:
            args += FAST_ARGON2
        return [*args, *self.extra_args]

    def _role_args(self) -> list[str]:
        args = ["--role", self.release.primary_role if self.role == "primary" else self.role]
        if self.primary_url is not None:
            args += [self.release.primary_url_option, self.primary_url]
        return args

    def _storage_args(self) -> list[str]:
        return [] if self.storage is None else ["--storage", self.storage]


def make_secret(path: Path) -> Path:
    """Write a secret file that devpi-server accepts and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.write_text(secrets.token_urlsafe(48))
    path.chmod(0o600)
    return path


def copy_serverdir(source: Path, target: Path, *, link_files: bool = False) -> Path:
    """Copy a serverdir, also of a running server, and return the copy; `link_files` saves space."""
    # The database last, as in any backup: a file may be missing in it, but never the other way round.
    ignored = shutil.ignore_patterns(".sqlite*", ".indices", ".replisync", ".event_serial-tmp")
    shutil.copytree(source, target, copy_function=os.link if link_files else shutil.copy2, ignore=ignored)
    for database in source.glob(".sqlite*"):
        if not database.name.endswith(("-wal", "-shm", "-journal")):
            copy_sqlite(database, target / database.name)
    return target


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database while others may use it."""
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as readable,
        closing(sqlite3.connect(target)) as writable,
    ):
        readable.backup(writable)


@atexit.register
def _kill_all() -> None:
    for server in list(_servers):
        server.kill()
