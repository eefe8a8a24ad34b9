"""Promotion for practice: of a copy, which then serves as any devpi-server does."""

import shutil
from pathlib import Path

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.oracle import assert_equal_exports
from tests.support.pgstandby import PostgresStandby, assert_fsck, export
from tests.support.pip import pip_install
from tests.support.standby import Standby


class CopiedStandby(PostgresStandby):
    """A copy of one in PostgreSQL, whose storage has another name."""

    @property
    def own(self) -> tuple[object, ...]:
        """The options that every command needs."""
        return ("--serverdir", self.serverdir, "--storage", self.database.spec)


def copy_of(standby: Standby, scratch: Path) -> Standby:
    """Return a copy of a standby that is at rest, with its database."""
    target = Path(shutil.copytree(standby.serverdir, scratch / "standby"))
    if not isinstance(standby, PostgresStandby):
        return Standby(target, standby.primary_url, standby.secretfile)
    database = standby.database.copy(f"{standby.database.name}_drill")
    return CopiedStandby(target, standby.primary_url, standby.secretfile, database)


def drill(standby: Standby, primary_dir: Path, scratch: Path, canary: str, *, same: bool) -> None:
    """Promote a copy, start a devpi-server on it, install from it, and write to it.

    canary: the version of the package `canary` on `root/canary` that must be there; "" for none.
    same: whether the primary has not changed since, so that the exports must be equal.
    """
    scratch.mkdir()
    copy = copy_of(standby, scratch)
    spec = copy.database.spec if isinstance(copy, PostgresStandby) else None
    copy.promote("--accept-loss")
    serial = copy.serial
    if same:
        assert_fsck(copy.serverdir, spec, scratch)
        theirs = export(primary_dir, None, scratch / "theirs")
        assert_equal_exports(theirs, export(copy.serverdir, spec, scratch / "ours"))
    with Server(copy.serverdir, secretfile=copy.secretfile, storage=spec) as promoted:
        assert promoted.serial() == serial
        if canary:
            into = scratch / "installed"
            pip_install(f"{promoted.url}/root/canary/+simple/", f"canary=={canary}", into, "--no-deps")
            assert (into / "canary.py").exists()
        with Client(promoted.url) as client:
            client.login()
            client.upload_wheel("root/canary", "canary", f"99.{serial}")
        assert promoted.serial() == serial + 1
    if isinstance(copy, PostgresStandby):
        copy.database.drop()
    shutil.rmtree(scratch)
