"""Completion as shells ask for it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.runs import REPLISYNC


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    done = subprocess.run([*REPLISYNC, "completion", shell], capture_output=True, text=True, check=True)
    assert "_REPLISYNC_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "replisync"
    program.write_text(f'#!/bin/sh\nexec {" ".join(REPLISYNC)} "$@"\n')
    program.chmod(0o755)
    script = """
        PATH=$1:$PATH
        eval "$(replisync completion bash)"
        for line in "cat" "status --off" "faults sk"; do
            COMPREPLY=()
            COMP_WORDS=(replisync $line) COMP_CWORD=$(set -- $line; echo $#)
            _replisync_completion replisync
            echo "${COMPREPLY[@]}"
        done
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["catchup", "--offline", "skip"]
