"""Standard streams that are closed, or that nobody reads: the exit code is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m replisync status --serverdir nosuch --json"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_closed_streams(closed: str) -> None:
    done = subprocess.run(["sh", "-c", f"{COMMAND} {closed}"], capture_output=True, check=False)
    assert done.returncode == 6
    assert b"Traceback" not in done.stderr


def test_errors_that_nobody_reads() -> None:
    """An error is no success because nobody is left to be told of it."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(COMMAND.split(), stdout=subprocess.PIPE, stderr=writer, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 6
    assert b'"code": 6' in done.stdout


@pytest.mark.parametrize("full", ["2>/dev/full", ">/dev/full", ">/dev/full 2>&1"])
def test_errors_that_cannot_be_written(full: str) -> None:
    """The interpreter, which tries again at its end, has no code of its own then."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["sh", "-c", f"{COMMAND} {full}"], capture_output=True, check=False, env=buffered)
    assert done.returncode == 6
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_an_encoding_lacks(encoding: str, tmp_path: Path) -> None:
    """They are no bug, and what is to be JSON stays JSON, in log lines too."""
    name = f"{tmp_path}/\xe9\u65e5\U0001f600"
    script = (
        "import sys; from replisync.cli.app import open_standard_streams; open_standard_streams(); "
        "from replisync.cli.logs import make_logger; "
        "make_logger('info', 'json').info('event', name=sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    log = [sys.executable, "-c", script, name]
    done = subprocess.run(log, capture_output=True, check=True, env=environment)
    assert json.loads(done.stderr.decode(encoding))["name"] == name
    status = [sys.executable, "-m", "replisync", "status", "--json", "--serverdir", name]
    done = subprocess.run(status, capture_output=True, check=False, env=environment)
    assert done.returncode == 6
    # click writes UTF-8 where it is told ASCII.
    assert name in json.loads(done.stdout.decode("utf-8" if encoding == "ascii" else encoding))["error"]
