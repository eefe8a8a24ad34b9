"""What users do to the primary meanwhile, whether it is there or not."""

import threading
import time
from random import Random

import httpx

from tests.support.devpi import Server
from tests.support.operations import Operations
from tests.support.upstream import Upstream

LONGEST_PAUSE = 0.3
SILENCE_SECONDS = 0.2


class Workload:
    """One thread that does one thing after the other; also a context manager that ends it.

    refused: how many the primary did not live to do, or answered with an error of its own.
    """

    def __init__(self, primary: Server, upstream: Upstream, random: Random) -> None:
        """Prepare; `random` belongs to the thread from now on."""
        payloads = [random.randbytes(size) for size in (10, 2_000, 2_000, 30_000, 300_000)]
        self.operations = Operations(primary, upstream, random, payloads)
        self.refused = 0
        self.error: BaseException | None = None
        self._random = random
        self._end = threading.Event()
        self._go = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def __enter__(self) -> "Workload":
        """Begin."""
        self._go.set()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End."""
        self._end.set()
        self._go.set()
        self._thread.join(30)
        self.operations.close()

    def pause(self) -> None:
        """Return when nothing is being done any more; the primary must be there."""
        self._idle.clear()
        self._go.clear()
        assert self._idle.wait(90), "the workload does not come to rest"
        self.check()

    def go_on(self) -> None:
        """Go on after a pause."""
        self._go.set()

    def check(self) -> None:
        """Raise what ended the work, if it has ended."""
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                if not self._go.is_set():
                    self._idle.set()
                    self._go.wait()
                    continue
                self._one()
                burst = self._random.random() < 0.5
                self._end.wait(0 if burst else self._random.uniform(0, LONGEST_PAUSE))
        except BaseException as err:  # noqa: BLE001 - raised by check()
            self.error = err
            self._idle.set()

    def _one(self) -> None:
        try:
            self.operations.one()
        except httpx.TransportError:
            self.refused += 1
            self._end.wait(SILENCE_SECONDS)
        except AssertionError as err:
            if " answered 5" not in str(err):
                raise
            self.refused += 1


def at_rest(primary: Server, seconds: float = 1.0, deadline_seconds: float = 60) -> int:
    """Return the primary's serial when it has not changed for a while and all events were processed."""
    end = time.monotonic() + deadline_seconds
    serial, since = primary.serial(), time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.1)
        if (now := primary.serial()) != serial:
            serial, since = now, time.monotonic()
        elif time.monotonic() - since > seconds and primary.event_serial() >= serial:
            return serial
    raise AssertionError(f"the primary does not come to rest: serial {serial}")
