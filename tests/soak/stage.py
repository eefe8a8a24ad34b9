"""Where the soak happens: a folder, a primary with an upstream, the way to it, a PostgreSQL, two standbys."""

import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Self

from tests.soak.chaos import Chaos
from tests.soak.drill import drill
from tests.soak.keeper import Cloner, Follower, Record
from tests.soak.workload import Workload, at_rest
from tests.support.client import Client
from tests.support.devpi import Server, make_secret
from tests.support.judge import Judge
from tests.support.pgstandby import PostgresStandby
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.standby import Standby
from tests.support.upstream import Upstream

CANARY = "root/canary"


class Stage:
    """Everything that runs; also a context manager that ends it and removes its folder.

    keep: whether the folder is left for somebody to look at.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.keep = False
        self.record = Record()
        self.drills = 0
        self._canary = ""
        self._clones = 0
        self._random = Random(seed)  # noqa: S311 - not for secrets
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start everything, and make the standbys."""
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="replisync-soak-"))
            stack.callback(self._remove)
            self._secret = make_secret(self.folder / "secret" / "secret")
            self.upstream = stack.enter_context(Upstream())
            self.postgres = stack.enter_context(Postgres())
            server = Server(self.folder / "primary", secretfile=self._secret, web=True)
            self.primary = stack.enter_context(server.init())
            self.proxy = stack.enter_context(Proxy(self.primary.url))
            with Client(self.primary.url) as client:
                client.login().create_index(CANARY, volatile=False)
            self.judge = Judge(self.primary.serverdir)
            self.chaos = Chaos(self.proxy, self.primary, self.upstream, self.postgres, self._child())
            stack.callback(self.chaos.calm)
            self.followers = [self._follower("sqlite"), self._follower("postgresql")]
            self.cloner = Cloner(
                self._next_clone,
                self.primary.serverdir,
                self.judge,
                self.chaos,
                self._child(),
                self.record,
            )
            for keeper in (*self.followers, self.cloner):
                stack.callback(keeper.abandon)
            self.workload = stack.enter_context(Workload(self.primary, self.upstream, self._child()))
            for follower in self.followers:
                follower.standby.clone()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End everything, whatever signals come meanwhile."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def _remove(self) -> None:
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _child(self) -> Random:
        return Random(self._random.random())  # noqa: S311 - not for secrets

    def _standby(self, name: str, kind: str) -> Standby:
        serverdir = self.folder / name
        if kind == "sqlite":
            return Standby(serverdir, self.proxy.url, self._secret)
        return PostgresStandby(serverdir, self.proxy.url, self._secret, self.postgres.database())

    def _follower(self, kind: str) -> Follower:
        standby = self._standby(kind, kind)
        return Follower(kind, standby, self.judge, self.chaos, self._child(), self.record)

    def _next_clone(self) -> Standby:
        self._clones += 1
        kind = "postgresql" if self._clones % 2 else "sqlite"
        return self._standby(f"clone-{self._clones}", kind)

    # What the soak consists of.

    def tick(self) -> None:
        """Let everybody do what is due."""
        self.workload.check()
        self.chaos.tick()
        for follower in self.followers:
            follower.tick()
        self.cloner.tick()
        self.proxy.requests.clear()

    def verify(self) -> None:
        """Have both standbys verified, while everything goes on."""
        for follower in self.followers:
            follower.verify()

    def practise(self) -> str:
        """Promote a copy of a standby in the middle of everything; return what was done."""
        follower = self.followers[self.drills % 2]
        follower.kill_and_check()
        self.chaos.calm()
        self._drill(follower, same=False)
        return f"{follower.name} promoted at serial {follower.standby.serial}, its primary went on"

    def come_to_rest(self) -> str:
        """End all troubles; both standbys must become equal to the primary, and one is promoted."""
        self.chaos.calm()
        self.workload.pause()
        self._canary = f"1.{self.drills}"
        with Client(self.primary.url) as client:
            client.login().upload_wheel(CANARY, "canary", self._canary, self._canary.encode())
        serial = at_rest(self.primary)
        for follower in self.followers:
            follower.finish(serial)
        follower = self.followers[self.drills % 2]
        self._drill(follower, same=True)
        self.workload.go_on()
        self.chaos.calm()
        return f"both are the primary at serial {serial}, {follower.name} promoted"

    def _drill(self, follower: Follower, *, same: bool) -> None:
        # Pages of mirrors that the primary asks for, or an event, may still write.
        drill(follower.standby, self.primary.serverdir, self.folder / "drill", self._canary, same=same)
        self.drills += 1

    def memory(self) -> tuple[int, str]:
        """Return the peak of the followers in MiB, and what is wrong with how it grows, "" where nothing."""
        peaks = sorted(self.record.peaks)
        if len(peaks) < 12:
            return max((kib for _, kib in peaks), default=0) // 1024, ""
        third = len(peaks) // 3
        early, late = (max(kib for _, kib in part) // 1024 for part in (peaks[:third], peaks[-third:]))
        grown = f"the peak of a follower grew from {early} to {late} MiB with the serials"
        return max(early, late), grown if late > early + 32 else ""


class Clock:
    """Says when something is due again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    @property
    def due(self) -> bool:
        """Whether the time has come."""
        return time.monotonic() >= self._at

    def restart(self) -> None:
        """Count anew from now on."""
        self._at = time.monotonic() + self._seconds
