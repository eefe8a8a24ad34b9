"""What every measurement stands on: a data set, a primary that serves a copy of it, and room for results."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from replisync.devpi.tokens import KeyCost, TokenSigner, derive_key
from tests.benchmarks.dataset import Dataset, checkout
from tests.benchmarks.machine import run_measured
from tests.support.devpi import Server
from tests.support.releases import FAST_ARGON2

REPLICA_UUID = "b" * 32


class Stage:
    """A running primary; a context manager that stops it.

    root: a new folder on the file system that is to be measured. Nothing in it is removed before the end:
        removing 10,000 files keeps a disk busy (`discard`) while the next competitor runs.
    """

    def __init__(self, dataset: Dataset, root: Path) -> None:
        """Copy the data set and describe the primary."""
        self.dataset = dataset
        self.root = root
        self._folders = 0
        self.standby = self.replica = root  # until there is one
        root.mkdir(parents=True)
        root.chmod(0o700)
        self.secretfile = dataset.secretfile
        self.primary = Server(checkout(dataset, root / "primary"), role="primary", secretfile=self.secretfile)
        self.keyfile = root / "key"
        self._signer: TokenSigner | None = None

    def __enter__(self) -> Self:
        """Start the primary."""
        self.primary.start()
        secret = ("--secretfile", self.secretfile, *FAST_ARGON2)
        run_measured(self.command("derive-key", *secret, "--output", self.keyfile))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the primary."""
        self.primary.stop()

    def new_standby(self) -> Path:
        """Return where the next standby goes."""
        self.standby = self._folder("standby")
        return self.standby

    def new_replica(self) -> Path:
        """Return where devpi's next replica goes."""
        self.replica = self._folder("replica")
        return self.replica

    def _folder(self, name: str) -> Path:
        self._folders += 1
        return self.root / f"{self._folders:03}-{name}"

    def command(self, *words: object) -> list[str]:
        """Return the command line of a replisync command."""
        return [sys.executable, "-m", "replisync", *map(str, words)]

    def token(self) -> str:
        """Return a token that opens the primary's changelog."""
        if self._signer is None:
            cost = KeyCost(memory=64, parallelism=1, time=1)
            self._signer = TokenSigner(derive_key(self.secretfile.read_bytes(), cost), time.time)
        return self._signer.token(REPLICA_UUID)

    def sample(self, count: int) -> list[str]:
        """Return the relpaths of `count` files, chosen and ordered at random."""
        relpaths = [relpath for relpath, _digest in self.dataset.relpaths()]
        return random.sample(relpaths, min(count, len(relpaths)))  # not for secrets


def last_serial(serverdir: Path) -> int:
    """Return the last serial in a serverdir's database, -1 if there is none yet."""
    uri = f"file:{quote(str(serverdir / '.sqlite'))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
            [(serial,)] = connection.execute("SELECT max(serial) FROM changelog").fetchall()
    except sqlite3.OperationalError:  # no file, no table, or locked for a moment
        return -1
    return -1 if serial is None else int(serial)


def missing_files(serverdir: Path, relpaths: Sequence[str]) -> list[str]:
    """Return those of the files that are not in place."""
    files = serverdir / "+files"
    return [relpath for relpath in relpaths if not os.path.exists(files / relpath)]
