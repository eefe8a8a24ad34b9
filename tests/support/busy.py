"""A server that is written to while something else goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.client import Client
from tests.support.devpi import Server


@contextmanager
def written_to(server: Server, *, index: str = "alice/dev", every: int = 10) -> Iterator[None]:
    """Upload to a server all the time; with every so many uploads replace one and delete another."""
    ended = threading.Event()

    def write() -> None:
        with Client(server.url) as client:
            client.login("alice", "secret")
            number = 0
            while not ended.is_set():
                number += 1
                client.upload_wheel(index, "busy", f"1.{number}", b"%d" % number)
                if number % every == 0:
                    client.upload_wheel(index, "replaced", "1.0", b"%d" % number)
                    client.delete_version(index, "busy", f"1.{number - 1}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()
