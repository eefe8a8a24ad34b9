"""What goes wrong around replisync: the network, the primary, the upstream, the database."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support.devpi import Server
from tests.support.postgres import Postgres
from tests.support.proxy import Fault, Proxy
from tests.support.upstream import Upstream

CHANGELOG = r"/\+changelog"
FILES = "/[a-z]+/[a-z]+/"

# A command may still feel a fault that ended so many seconds ago.
ECHO_SECONDS = 15.0


@dataclass
class Trouble:
    """Something that goes wrong for a while.

    codes: the exit codes that it excuses.
    end: makes it pass.
    locks: whether a database cannot be read meanwhile.
    """

    name: str
    codes: frozenset[int]
    end: Callable[[], object]
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    locks: bool = False


class Chaos:
    """Begins and ends troubles; one of each kind at a time.

    counts: how often each kind was begun.
    """

    def __init__(
        self, proxy: Proxy, primary: Server, upstream: Upstream, postgres: Postgres, random: Random
    ) -> None:
        """Begin in peace."""
        self.counts: dict[str, int] = {}
        self._proxy, self._primary, self._upstream, self._postgres = proxy, primary, upstream, postgres
        self._random = random
        self._past: list[Trouble] = []
        self._now: dict[str, Trouble] = {}
        self._due: dict[str, float] = {}
        self._kinds: dict[str, tuple[Callable[[], Trouble], tuple[float, float], tuple[float, float]]] = {
            # Kind: what begins one, how long the peace before is, how long it lasts.
            "network": (self._network, (0.5, 4), (0.5, 6)),
            "primary": (self._primary_gone, (20, 60), (0.1, 4)),
            "upstream": (self._upstream_failing, (20, 60), (1, 10)),
            "database": (self._database_gone, (20, 60), (0.1, 4)),
        }
        self.calm()

    def tick(self) -> None:
        """Begin and end what is due."""
        for kind, (begin, peace, length) in self._kinds.items():
            if time.monotonic() < self._due[kind]:
                continue
            if kind in self._now:
                self._end(kind)
                self._due[kind] = time.monotonic() + self._random.uniform(*peace)
            else:
                trouble = self._now[kind] = begin()
                self.counts[kind] = self.counts.get(kind, 0) + 1
                self._due[kind] = trouble.started + self._random.uniform(*length)

    def calm(self) -> None:
        """End all troubles; the next ones begin no sooner than their times of peace demand."""
        for kind in list(self._now):
            self._end(kind)
        for kind, (_, peace, _) in self._kinds.items():
            self._due[kind] = time.monotonic() + self._random.uniform(*peace)

    def be_readable(self) -> None:
        """Have the databases back, for whoever must read them: a frozen primary may hold its own locked."""
        for kind in ("database", "primary"):
            if kind in self._now and self._now[kind].locks:
                self._end(kind)
                self._due[kind] = time.monotonic() + self._random.uniform(*self._kinds[kind][1])

    def excused(self, since: float) -> frozenset[int]:
        """Return the exit codes that troubles since some moment excuse."""
        felt = [one for one in self._past if one.ended is None or one.ended > since - ECHO_SECONDS]
        return frozenset().union(*(one.codes for one in [*felt, *self._now.values()]))

    def names(self) -> str:
        """Return what is going wrong at the moment."""
        return ", ".join(trouble.name for trouble in self._now.values()) or "peace"

    def _end(self, kind: str) -> None:
        trouble = self._now[kind]
        trouble.end()
        trouble.ended = time.monotonic()
        self._past = [*self._past, self._now.pop(kind)][-50:]

    def _network(self) -> Trouble:
        if self._random.random() < 0.1:
            self._proxy.refuse()
            return Trouble("connections refused", frozenset({3}), self._proxy.accept)
        if self._random.random() < 0.1:
            self._proxy.drop_connections()
            return Trouble("connections dropped", frozenset({3}), lambda: None)
        path = self._random.choice([CHANGELOG, FILES, FILES])
        effects, codes = self._effects(path)
        times = self._random.choice([1, 2, 5, None])
        fault = self._proxy.add(Fault(path=path, times=times, **effects))
        name = f"{'changelog' if path == CHANGELOG else 'files'} {effects}"
        return Trouble(name, frozenset({3, *codes}), lambda: self._proxy.remove(fault))

    def _effects(self, path: str) -> tuple[dict[str, Any], set[int]]:
        """Return what happens to answers, and which exit codes beside 3 that excuses."""
        at = self._random.choice([0, 1, 100, 5_000, 100_000])
        choices: list[tuple[dict[str, Any], set[int]]] = [
            ({"cut_after": at}, set()),
            ({"cut_framed_after": at or 3}, set()),
            ({"end_after": at}, set()),
            ({"reset_after": at}, set()),
            ({"stall_after": at}, set()),
            ({"bytes_per_second": 20_000}, set()),
            ({"delay_seconds": 1.5}, set()),
            ({"reset": True}, set()),
            ({"disconnect": True}, set()),
            # An entry that always comes in part, and as a whole for HTTP, is damage in the end.
            (
                {"content_length_delta": self._random.choice([-1, 1, 1000])},
                {5} if path == CHANGELOG else set(),
            ),
            *(({"status": status}, set()) for status in (500, 502, 503, 504)),
            # A proxy in between that says no: the operator is asked.
            *(({"status": status}, {4}) for status in (403, 404)),
            ({"status": 302, "location": f"{self._upstream.url}/elsewhere"}, {4}),
        ]
        # Garbage in the changelog does not pass by itself; a file with garbage is fetched again.
        garbage = [({"garbage_at": 0}, {5})] if path == CHANGELOG else []
        if path == FILES:
            garbage = [({"garbage_at": at}, set()), ({"flip_at": at}, set()), ({"insert_at": at}, set())]
        return self._random.choice([*choices, *garbage])

    def _primary_gone(self) -> Trouble:
        way = self._random.choice(["killed", "stopped", "frozen"])
        if way == "frozen":
            self._primary.pause()
            # 7: a copy of its serverdir may meet a database that is locked for ever.
            return Trouble("primary frozen", frozenset({3, 7}), self._primary.resume, locks=True)
        (self._primary.kill if way == "killed" else self._primary.stop)()
        return Trouble(f"primary {way}", frozenset({3}), self._primary.start)

    def _upstream_failing(self) -> Trouble:
        def repair() -> None:
            self._upstream.failing = None

        self._upstream.failing = self._random.choice([404, 500, 503])
        return Trouble("upstream failing", frozenset(), repair)

    def _database_gone(self) -> Trouble:
        self._postgres.crash()
        return Trouble("database killed", frozenset({7}), self._postgres.start, locks=True)
