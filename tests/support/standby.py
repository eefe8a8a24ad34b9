"""One standby as its operator sees it: a folder, and replisync's commands for it, run in this process."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.devpi import Server
from tests.support.history import files_below, read_history
from tests.support.runs import Background, Outcome, run_here
from tests.support.snapshot import last_serial
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Standby:
    """A serverdir, the URL under which it finds its primary, and the secret of both."""

    serverdir: Path
    primary_url: str
    secretfile: Path

    @property
    def serial(self) -> int:
        """The last serial in its database."""
        return last_serial(self.serverdir)

    def is_at(self, serial: int) -> bool:
        """Whether this is the last serial in its database."""
        return self.serial == serial

    @property
    def own(self) -> tuple[object, ...]:
        """The option that every command needs."""
        return ("--serverdir", self.serverdir)

    @property
    def with_secret(self) -> tuple[object, ...]:
        """The options of the commands that read the changelog."""
        return (*self.own, "--secretfile", self.secretfile)

    @property
    def new(self) -> tuple[object, ...]:
        """The options of its clone."""
        return (*self.with_secret, "--primary-url", self.primary_url)

    def clone(self, *more: object, code: int = 0) -> Outcome:
        """Make it, or go on with making it."""
        return run_here("clone", *self.new, *more, code=code)

    def catchup(self, *more: object, code: int = 0) -> Outcome:
        """Bring it up to date."""
        return run_here("catchup", *self.with_secret, *more, code=code)

    def rewind(self, serial: int, *more: object, code: int = 0) -> Outcome:
        """Take it back to a serial; its primary is asked for files that were not retained."""
        return run_here("rewind", *self.with_secret, "--to-serial", serial, *more, code=code)

    def promote(self, *more: object, code: int = 0) -> dict[str, Any]:
        """Promote it; return the JSON object that says so, or why not."""
        said: dict[str, Any] = json.loads(run_here("promote", *self.own, "--json", *more, code=code).stdout)
        return said

    def status(self, *more: object, code: int = 0) -> dict[str, Any]:
        """Return the fields of its status."""
        said: dict[str, Any] = json.loads(run_here("status", *self.own, "--json", *more, code=code).stdout)
        return said

    def verify(self, level: str, *more: object, code: int = 0) -> dict[str, Any]:
        """Verify it, with its secret; return the report."""
        args = (*self.with_secret, "--level", level, "--json", *more)
        said: dict[str, Any] = json.loads(run_here("verify", *args, code=code).stdout)
        return said

    def faults(self) -> dict[str, dict[str, Any]]:
        """Return the files that could not be had: relpath to what is known of each."""
        listed = json.loads(run_here("faults", "list", *self.own, "--json").stdout)
        return {fault.pop("relpath"): fault for fault in listed}

    def follow(self, *more: object, environment: Mapping[str, str] | None = None) -> Background:
        """Start to follow, as a process of its own; return it when it follows."""
        log = self.serverdir.with_name(f"{self.serverdir.name}.follow.log")
        command = Background(log, "follow", *self.with_secret, *more, environment=environment)
        try:
            return command.wait_for_log("following")
        except BaseException:
            command.kill()
            raise

    def copy(self, target: Path) -> "Standby":
        """Return a copy that nobody else uses; this one must be at rest."""
        shutil.copytree(self.serverdir, target)
        return Standby(target, self.primary_url, self.secretfile)


def settled(primary: Server) -> int:
    """Return the primary's serial when all files are committed that it keeps of its mirrors.

    That happens a moment after the answer that delivered the file.
    """
    kept = primary.serverdir / "+files"

    def at_rest() -> bool:
        return set(files_below(kept)) <= set(read_history(primary.serverdir).live_files)

    wait_until(at_rest, 60, "the primary has committed what it keeps")
    return primary.serial()


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that a folder holds, ours too: names, modes, times of change and contents."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.relative_to(folder).as_posix()] = (stat.st_mode, stat.st_mtime_ns, stat.st_size, digest)
    return found


def changed(before: dict[str, tuple[object, ...]], folder: Path) -> list[str]:
    """Return the names that are not as they were."""
    now = tree(folder)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
