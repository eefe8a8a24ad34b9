"""One primary for the whole folder, that is ahead of a standby of it, and a proxy between the two."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import unprivileged
from tests.support.client import Client
from tests.support.devpi import Server, copy_serverdir
from tests.support.history import read_history
from tests.support.proxy import Proxy
from tests.support.runs import REPLISYNC, run_here
from tests.support.snapshot import last_serial
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

NOBODY = 65_534
UNPRIVILEGED = Path(unprivileged.__file__)

MIRRORED = ("never", "never-1.0-py3-none-any.whl")


@dataclass
class World:
    """What the tests start from; they change copies alone, and the way that the proxy leads.

    folder: the test's own.
    primary: runs, and stays as it is. Its serverdir may be copied at any time.
    restored: the serverdir of the same primary as it was before its latest changes.
    early: a standby from before these changes; its primary's URL is the proxy's.
    early_serial, serial: where that standby and the primary are.
    """

    folder: Path
    secretfile: Path
    primary: Server
    proxy: Proxy
    restored: Path
    early: Path
    early_serial: int
    serial: int

    def standby(self, name: str = "standby") -> Path:
        """Return a fresh copy of the early standby."""
        target = self.folder / name
        # Nothing ever writes into a file of devpi's, so that links do.
        shutil.copytree(self.early, target, ignore=shutil.ignore_patterns("+files"))
        shutil.copytree(self.early / "+files", target / "+files", copy_function=os.link)
        return target

    def options(self, target: Path, *more: object) -> tuple[object, ...]:
        """Return the options that every command needs that reads from the primary."""
        return ("--serverdir", target, "--secretfile", self.secretfile, *more)

    def new(self, target: Path, *more: object) -> tuple[object, ...]:
        """Return the options of a clone."""
        return self.options(target, "--primary-url", self.proxy.url, *more)

    def lead_to(self, server: Server) -> Server:
        """Put another server behind the proxy's URL."""
        self.proxy.target_url = server.url
        self.proxy.drop_connections()
        return server

    def copied(self, name: str = "other") -> Server:
        """Return a stopped server with a copy of the primary's data, to be damaged and started."""
        serverdir = copy_serverdir(self.primary.serverdir, self.folder / name)
        return Server(serverdir, secretfile=self.secretfile)


def make_changes(server: Server) -> None:
    """Commit changes of the usual kinds; the files are big enough to be cut in the middle."""
    with Client(server.url) as client:
        client.login("alice", "secret")
        for number in range(4):
            client.upload_wheel("alice/dev", "late", f"1.{number}", bytes(range(256)) * 100)
        client.upload_docs("alice/dev", "late", "1.0")
        client.upload_wheel("alice/dev", "foo-bar", "1.0", b"replaced once more")
        client.delete_project("alice/dev", "vanished")
        client.register("alice/dev", "late", "2.0", description="words " * 5_000)
        client.fetch(client.links("root/mirror", MIRRORED[0])[MIRRORED[1]])
    # It is committed a moment after its last byte was sent.
    wait_until(lambda: MIRRORED[1] in last_change(server), 60, "the mirror's file is committed")
    server.wait_for_events()


def last_change(server: Server) -> str:
    """Return the name of the first key that the last serial changed."""
    history = read_history(server.serverdir)
    return next(iter(history.changes(history.last_serial)), "")


@pytest.fixture(scope="session")
def _base(
    tmp_path_factory: pytest.TempPathFactory,
    populated_serverdir: Path,
    populated_upstream: Upstream,
    secretfile: Path,
) -> Iterator[World]:
    assert not populated_upstream.stopped, "the mirrors ask it"
    folder = tmp_path_factory.mktemp("faults")
    serverdir = copy_serverdir(populated_serverdir, folder / "primary")
    early = folder / "early"
    with Server(serverdir, secretfile=secretfile) as primary, Proxy(primary.url) as proxy:
        world = World(folder, secretfile, primary, proxy, populated_serverdir, early, 0, 0)
        run_here("clone", *world.new(early))
        world.early_serial = last_serial(early)
        make_changes(primary)
        world.serial = primary.serial()
        yield world


@pytest.fixture
def world(_base: World, tmp_path: Path) -> Iterator[World]:
    """The primary, a standby that is behind it, and a proxy without faults."""
    proxy = _base.proxy
    proxy.clear()
    proxy.accept()
    proxy.bad_gateway = proxy.own_dates = False
    proxy.requests.clear()
    _base.folder = tmp_path
    _base.lead_to(_base.primary)
    yield _base
    proxy.clear()
    proxy.drop_connections()
    assert _base.primary.serial() == _base.serial, "a test changed the primary that all tests share"


@dataclass
class Restored:
    """The primary after its restore from a backup, running, with its own way from there on."""

    server: Server
    client: Client

    def grow(self, serial: int) -> None:
        """Commit other changes than the lost ones, up to a serial."""
        while (last := self.server.serial()) < serial:
            self.client.register("alice/dev", f"other{last}", "1.0")


@pytest.fixture
def restored(world: World) -> Iterator[Restored]:
    """The primary as it was before its latest changes; the standbys have them already."""
    serverdir = copy_serverdir(world.restored, world.folder / "restored")
    with Server(serverdir, secretfile=world.secretfile) as server, Client(server.url) as client:
        client.login("alice", "secret")
        yield Restored(server, client)


@pytest.fixture
def shared_folder(secretfile: Path) -> Iterator[Path]:
    """A folder that unprivileged users reach, unlike pytest's own, with a secret that they may read."""
    with tempfile.TemporaryDirectory(prefix="replisync-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        secret = folder / "of-nobody" / "secret"
        secret.parent.mkdir()
        secret.write_bytes(secretfile.read_bytes())
        secret.chmod(0o600)
        for path in (secret, secret.parent):
            os.chown(path, NOBODY if os.geteuid() == 0 else -1, -1)
        yield folder


def give_to_nobody(folder: Path) -> Sequence[object]:
    """Let a user without privileges own a folder; return the program that runs as that user."""
    if os.geteuid() != 0:
        return REPLISYNC
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, -1)
    return (sys.executable, str(UNPRIVILEGED), str(NOBODY))
