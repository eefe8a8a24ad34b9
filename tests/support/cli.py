"""replisync's command line, as operators use it: each command a process of its own."""

import subprocess
from pathlib import Path

from tests.support.runs import REPLISYNC, Background, arguments, finished


def replisync(command: str, *args: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a command and check its exit code; None accepts any."""
    done = finished([*REPLISYNC, *arguments(command, *args)])
    if check is not None:
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == check, f"{command} ended with {done.returncode}, not {check}:\n{said}"
    return done


class Follower(Background):
    """`replisync follow` of a standby; as a context manager it waits until it follows."""

    def __init__(self, serverdir: Path, secretfile: Path, *args: object) -> None:
        """Start to follow."""
        log = serverdir.with_name(f"{serverdir.name}.follow.log")
        super().__init__(log, "follow", "--serverdir", serverdir, "--secretfile", secretfile, *args)

    def __enter__(self) -> "Follower":
        """Return the command when it follows."""
        try:
            self.wait_for_log("following")
        except BaseException:
            self.kill()
            raise
        return self
