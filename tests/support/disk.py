"""Small file systems of their own, for tests that fill them or write-protect them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs that is as big as the test says."""

    def __init__(self, root: Path) -> None:
        """Describe a file system that is mounted at `root`."""
        self.root = root

    def resize(self, kib: int) -> None:
        """Make it bigger, or smaller as far as its content allows."""
        self._remount(f"size={kib}k")

    def protect(self) -> None:
        """Let nobody write to it any more."""
        self._remount("ro")

    def unprotect(self) -> None:
        """Let it be written to again."""
        self._remount("rw")

    def fill(self, left: int) -> Path:
        """Write a file that leaves so many bytes free; return it, for the test to remove it again."""
        filler = self.root / "filler"
        state = os.statvfs(self.root)
        with filler.open("wb") as file:
            file.write(bytes(max(0, state.f_bavail * state.f_frsize - left)))
        return filler

    def _remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.root], check=True, capture_output=True)


@contextmanager
def small_disk(root: Path, kib: int) -> Iterator[SmallDisk]:
    """Mount a file system for the length of a with block; skip the test where that is not allowed."""
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(root)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        pytest.skip("there is no command to mount a file system")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", root], check=True, capture_output=True)
