"""Processes of Python programs that begin where all imports are done: forked from one that did them once.

Each is a process as any other, to be killed, frozen and waited for; only most of the second is saved that its
interpreter would take to begin. What a test says of that beginning (of variables that the interpreter or the
linker reads, of arguments that others see) needs a true start, by way of subprocess.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import parent_process
from pathlib import Path

# What imports nearly everything that the programs need, also what they import when they need it only.
PRELOADED = (
    *("devpi_server.main", "devpi_server.auth_basic", "devpi_server.auth_devpi", "devpi_server.fsck"),
    *("devpi_server.genconfig", "devpi_server.importexport", "devpi_server.init", "devpi_server.mirror"),
    *("devpi_server.keyfs_sqlite_fs", "devpi_server.replica", "devpi_server.view_auth"),
    *("devpi_postgresql.main", "devpi_web.main", "devpi_web.whoosh_index"),
    *("platformdirs.unix", "pyramid.config", "strictyaml", "waitress.server"),
    *(
        "replisync.cli.app",
        "replisync.plugin",
        "replisync.standby.database.postgres",
        "replisync.standby.database.pgfiles",
    ),
    *("alembic.command", "sqlalchemy.dialects.sqlite", __name__),
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))
_running: set["Forked"] = set()  # as far as is known
_wanted = False


def use() -> None:
    """Have programs forked from now on; who measures them, or runs them for long, does not want that."""
    global _wanted
    _wanted = True


def wanted() -> bool:
    """Tell whether programs are to be forked."""
    return _wanted


class Forked:
    """A running program, with as much of subprocess.Popen as the tests use."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        stdout: Path,
        stderr: Path | None = None,
        *,
        ends_with_us: bool = False,
        user: int | None = None,
    ) -> None:
        """Start a program with these arguments, the program's name first; what it says is appended to files.

        program: `module:function`; the function's result is the exit code, as for a console script.
        stderr: as stdout where it is None.
        ends_with_us: whether it ends at once when this process is gone, however that ended.
        user: whose process it is, without the groups of ours; only root may say.
        """
        said = (str(stdout), str(stderr or stdout))
        args = (program, list(arguments), *said, dict(os.environ), ends_with_us, user)
        self._process = _context.Process(target=_become, args=args)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        for other in tuple(_running):
            other.poll()
        _running.add(self)

    @property
    def returncode(self) -> int | None:
        """The exit code, the negative number of a signal, or None while it runs."""
        code = self._process.exitcode
        if code is not None:
            _running.discard(self)
        return code

    def poll(self) -> int | None:
        """Return the exit code as of now."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended.

        timeout: seconds.
        Raises subprocess.TimeoutExpired.
        """
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        self.send_signal(signal.SIGKILL)


def run(
    program: str, command: Sequence[str], timeout: float, *, together: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return what it said, as subprocess.run does.

    program: as for `Forked`.
    timeout: seconds.
    together: whether stderr goes to stdout.
    Raises subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryDirectory(prefix="replisync-said-") as folder:
        stdout, stderr = Path(folder, "stdout"), None if together else Path(folder, "stderr")
        process = Forked(program, command, stdout, stderr)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        said = stdout.read_text(encoding="utf-8", errors="replace")
        apart = None if stderr is None else stderr.read_text(encoding="utf-8", errors="replace")
    return subprocess.CompletedProcess(list(command), code, said, apart)


def _become(
    program: str,
    arguments: list[str],
    stdout: str,
    stderr: str,
    environment: dict[str, str],
    ends_with_us: bool,
    user: int | None,
) -> None:
    """Be the program; this is the new process."""
    for number, path in ((1, stdout), (2, stderr)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    sys.argv = arguments
    if ends_with_us:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, function = program.partition(":")
    try:
        sys.exit(getattr(importlib.import_module(module), function)())
    finally:
        # The interpreter does so at its end, but not in processes of multiprocessing.
        atexit._run_exitfuncs()


def _end_with_parent() -> None:
    """Exit as soon as the process is gone that asked for this one."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(99)


@atexit.register
def _kill_all() -> None:
    # Before multiprocessing waits for them.
    for process in tuple(_running):
        process.kill()
