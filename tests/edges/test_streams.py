"""Standard streams that are closed, or that nobody reads: the exit code is the same."""

import os
import subprocess
import sys

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
