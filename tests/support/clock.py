"""A wall clock that jumps, for a process as a whole: nothing in the program knows of it."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shifted_clock.c")


class ShiftedClock:
    """The clock of those programs that get `environment`; it is right until it is shifted."""

    def __init__(self, folder: Path) -> None:
        """Compile what is preloaded; skip the test where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler to make a clock with that can be set")
        library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
        self._file = folder / "clock"
        self.shift(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "REPLISYNC_TEST_CLOCK": str(self._file),
        }

    def shift(self, seconds: int) -> None:
        """Set the clock so many seconds ahead of the right time, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)
