"""Free TCP ports for the servers that the tests start."""

import random
import socket

# Below Linux' ephemeral range, so that no outgoing connection takes the port while its server restarts.
FIRST_PORT, LAST_PORT = 18_000, 32_000

_given: set[int] = set()


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody listens on and that was not returned before."""
    for _ in range(1_000):
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - not for secrets
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise AssertionError("no free port found")


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
