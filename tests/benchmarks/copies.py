"""The competitors that copy a primary: replisync, devpi's own replica, and a bare drain of the stream."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import httpx

from tests.benchmarks.machine import Finished, run_measured
from tests.benchmarks.stage import REPLICA_UUID, Stage, last_serial, missing_files
from tests.support.devpi import Server

STREAM = "application/x-devpi-replica-changes, application/octet-stream; q=0.9"
NO_FILES = ("--file-replication-skip-indexes", "all")
_FETCHING = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*fetching http", re.MULTILINE)
_DEADLINE_SECONDS = 1_800
POLL_SECONDS = 0.05


def drain(stage: Stage) -> float:
    """Return the seconds in which httpx reads the whole stream and throws it away."""
    headers = {
        "Accept": STREAM,
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {stage.token()}",
        "X-DEVPI-REPLICA-UUID": REPLICA_UUID,
        "X-DEVPI-EXPECTED-PRIMARY-ID": "",
    }
    url = f"{stage.primary.url}/+changelog/0-"
    size = 0
    begin = time.monotonic()
    with httpx.Client(trust_env=False) as client, client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        for chunk in response.iter_raw():
            size += len(chunk)
    seconds = time.monotonic() - begin
    if size < stage.dataset.changelog_bytes:
        raise RuntimeError(f"the stream had {size} bytes of {stage.dataset.changelog_bytes}")
    return seconds


def clone(stage: Stage, *, files: bool) -> Finished:
    """Clone the primary with replisync, as a process from its start to its end."""
    serverdir = stage.new_standby()
    finished = run_measured(clone_command(stage, serverdir, files=files))
    check(stage, serverdir, files=files)
    return finished


def metadata_seconds(output: str) -> float:
    """Return the seconds from a clone's first request of changes to its last commit, by its own log."""
    times = {}
    for line in output.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            times[entry["event"]] = datetime.fromisoformat(entry["timestamp"])
    return (times["files"] - times["metadata"]).total_seconds()


def clone_command(stage: Stage, serverdir: Path, *, files: bool) -> list[str]:
    """Return the command line of a clone."""
    source = ("--primary-url", stage.primary.url, "--replica-keyfile", stage.keyfile)
    return stage.command("clone", "--serverdir", serverdir, *source, *(() if files else NO_FILES))


def devpi_replica(stage: Stage, *, files: bool) -> float:
    """Return the seconds that devpi's own replica takes, from its first request of changes."""
    serverdir = stage.new_replica()
    with replica(stage, serverdir, files=files) as server:
        ended = _wait_until_complete(stage, serverdir, files=files)
        begun = first_request(server.log_path)
    check(stage, serverdir, files=files)
    return ended - begun


def replica(stage: Stage, serverdir: Path, *, files: bool, storage: str | None = None) -> Server:
    """Return devpi's own replica of the primary, not started; it gets its serverdir if that is not there."""
    server = Server(
        serverdir,
        role="replica",
        primary_url=stage.primary.url,
        secretfile=stage.secretfile,
        extra_args=() if files else NO_FILES,
        storage=storage,
    )
    return server if serverdir.exists() else server.init()


def _wait_until_complete(stage: Stage, serverdir: Path, *, files: bool) -> float:
    deadline = time.time() + _DEADLINE_SECONDS
    missing = [relpath for relpath, _digest in stage.dataset.relpaths()] if files else []
    while last_serial(serverdir) < stage.dataset.last_serial or missing:
        if time.time() > deadline:
            raise RuntimeError(f"devpi's replica was not ready after {_DEADLINE_SECONDS} s")
        time.sleep(POLL_SECONDS)
        # Files come in the order of the serials, more or less: the last ones say when to look at all.
        if missing and not missing_files(serverdir, missing[-1:]):
            missing = missing_files(serverdir, missing)
    return time.time()


def first_request(log: Path) -> float:
    found = _FETCHING.search(log.read_text())
    if found is None:
        raise RuntimeError(f"no first request of changes in {log}")
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # local time, as devpi logs it


def check(stage: Stage, serverdir: Path, *, files: bool) -> None:
    """Make sure that a copy is complete."""
    if last_serial(serverdir) != stage.dataset.last_serial:
        raise RuntimeError(f"{serverdir} is at serial {last_serial(serverdir)}")
    if files and (missing := missing_files(serverdir, [path for path, _ in stage.dataset.relpaths()])):
        raise RuntimeError(f"{serverdir} lacks {len(missing)} files, e.g. {missing[0]}")
