"""The core alone: no test in this folder reaches a network or starts a process."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Random examples, but none that depends on how busy the machine is, and no folder in the checkout.
settings.register_profile(
    "unit", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unit")

_FORBIDDEN = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen")


class Isolation(Exception):
    """A unit test tried to leave its process."""


class _Guard:
    on = False


def _refuse(event: str, _arguments: object) -> None:
    if _Guard.on and event in _FORBIDDEN:
        raise Isolation(f"{event} in a unit test")


# Audit hooks cannot be taken away again, so this one looks at a flag.
sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    _Guard.on = True
    yield
    _Guard.on = False
