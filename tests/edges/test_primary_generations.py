"""A primary of a generation that we do not read says so itself; what it says otherwise changes nothing."""

from collections.abc import Callable

import httpx
import pytest

from replisync.devpi.tokens import TokenSigner
from replisync.errors import NewerPrimary, NotThePrimary
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from tests.fakes import Body, answers

STREAM = "application/x-devpi-replica-changes-v2"

# The beginning of an entry of devpi-server 7.
ENTRY = b"zJK\x00\x00\x00\x00@\x00\x00\x00\x02Q"


def primary(handler: Callable[[httpx.Request], httpx.Response], expected: str = "primary") -> Primary:
    """Return a primary whose answers a handler makes."""
    signer = TokenSigner(b"0123456789abcdef", lambda: 1.8e9)
    transport = httpx.MockTransport(handler)
    return Primary(
        "http://primary", signer, uuid="replica", expected=expected, link=Link(transport=transport)
    )


class Newer:
    """Answers as devpi-server 7.0.0b4 does.

    version: None where a proxy removes the header.
    """

    def __init__(self, version: str | None, uuid: str = "primary", serial: int = 9) -> None:
        self.requests = 0
        self.headers = {
            "Server": "waitress",
            "X-Devpi-Api-Version": "2",
            "X-Devpi-Primary-Uuid": uuid,
            "X-Devpi-Serial": str(serial),
            "X-Devpi-Uuid": uuid,
        }
        if version is not None:
            self.headers["X-Devpi-Server-Version"] = version

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        accepted = request.headers["Accept"]
        if "/+changelog/" not in request.url.path:
            return httpx.Response(200, headers=self.headers, stream=Body(b"{}"))
        if "*/*" in accepted or STREAM in accepted:
            return httpx.Response(200, headers=self.headers, stream=Body(ENTRY))
        headers = {**self.headers, "Content-Type": "text/plain; charset=UTF-8"}
        return httpx.Response(406, headers=headers, stream=Body(b"406 Not Acceptable\n\n\n\n\n\n\n"))


def ask_hello(one: Primary) -> object:
    """Ask who is there."""
    return one.hello()


def ask_entry(one: Primary) -> object:
    """Ask for an entry."""
    return one.entry(5)


def ask_changes(one: Primary) -> object:
    """Ask for changes, and read them all."""
    with one.changes(5, poll=False) as changes:
        return list(changes.groups)


def ask_poll(one: Primary) -> object:
    """Wait for the next change, and read it."""
    with one.changes(10, poll=True) as changes:
        return list(changes.groups)


ENTRIES = (ask_entry, ask_changes, ask_poll)


@pytest.mark.parametrize("act", [ask_hello, *ENTRIES])
@pytest.mark.parametrize("uuid", ["primary", "another"])
@pytest.mark.parametrize("version", ["7.0.0b4", "7.0.0", "8.1.dev3+local", "10"])
def test_a_newer_generation_is_refused_at_the_first_answer_and_named(
    version: str, uuid: str, act: Callable[[Primary], object]
) -> None:
    """Also where its UUID is another one, as after an export and import: that is no divergence."""
    server = Newer(version, uuid)
    with primary(server) as one, pytest.raises(NewerPrimary) as caught:
        act(one)
    assert server.requests == 1
    said = str(caught.value)
    assert (
        f"it runs devpi-server {version}, and this replisync reads the changelogs of devpi-server 4 to 6"
        in said
    )
    assert "fsck" not in said
    assert not caught.value.transient
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("act", ENTRIES)
def test_one_whose_version_a_proxy_removes_is_known_by_its_406(act: Callable[[Primary], object]) -> None:
    server = Newer(None)
    with primary(server) as one, pytest.raises(NewerPrimary, match="406"):
        act(one)
    assert server.requests == 1


@pytest.mark.parametrize("version", ["7.0.0b4", None])
def test_at_first_contact_too(version: str | None) -> None:
    with primary(Newer(version), expected="") as one, pytest.raises(NewerPrimary):
        one.entry(0)


def test_a_406_of_a_proxy_is_not_one_of_the_primary() -> None:
    with (
        primary(lambda _request: httpx.Response(406, stream=Body(b"Not Acceptable"))) as one,
        pytest.raises(NotThePrimary, match="it answered 406") as caught,
    ):
        one.entry(5)
    assert not isinstance(caught.value, NewerPrimary)


@pytest.mark.parametrize(
    "version",
    [
        *(
            None,
            "",
            " ",
            "4.8.1",
            "5.5.1",
            "6",
            "6.20.3",
            "6.99.0.dev1",
            "seven",
            "v7.0",
            "\xb2",
            "\xff",
            "-7",
        ),
        *("7\x1b[31m", "7" * 5000, "7." + "0" * 5000, "7 .0", "0x7"),
    ],
)
def test_an_older_version_and_what_is_none_hurt_nobody(version: str | None) -> None:
    named = [(name.encode(), value.encode()) for name, value in answers(serial=4).items()]
    named += [] if version is None else [(b"X-DEVPI-SERVER-VERSION", version.encode("latin-1"))]
    with primary(lambda _request: httpx.Response(202, headers=named)) as one:
        assert one.hello().serial == 4
        assert one.entry(5)[1] is None
        assert ask_changes(one) == []
