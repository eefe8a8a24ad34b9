"""TLS: the certificate is always verified, by a private CA too, and ours is shown where one is asked for."""

from pathlib import Path

import pytest

from tests.faults.conftest import World
from tests.support.runs import run_here
from tests.support.snapshot import last_serial
from tests.support.standby import Standby
from tests.support.tls import Authority, TlsProxy


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The operator's own CA."""
    tmp_path.chmod(0o700)
    return Authority(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    """A CA that nobody here knows."""
    return Authority(tmp_path, "other")


def test_a_private_ca_and_a_client_certificate(
    world: World, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that talks to the primary takes both, and the environment's bundle counts too."""
    with TlsProxy(world.primary.url, authority, clients=authority) as proxy:
        known = ("--ca-bundle", authority.bundle, "--replica-cert", authority.client_cert())
        standby = Standby(tmp_path / "new", proxy.url, world.secretfile)
        standby.clone(*known)
        assert last_serial(standby.serverdir) == world.serial
        standby.catchup(*known)
        assert standby.status(*known)["state"] == "current"
        assert standby.status()["state"] == "stale"
        with standby.follow(*known) as follower:
            follower.stop()
        assert run_here("rewind", *standby.with_secret, "--to-serial", 3, *known).code == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        standby.catchup("--replica-cert", authority.client_cert())
        assert standby.promote(*known, "--dry-run")["reachable"]
        assert proxy.served > 0


def refused(world: World, url: str, *more: object, code: int = 4) -> str:
    """Try to make a standby, which must fail at once and leave nothing; return the message."""
    target = world.folder / "refused"
    options = world.options(target, "--primary-url", url, "--patience", 30, *more)
    message = run_here("clone", *options, code=code).message
    assert not target.exists()
    return message


def test_a_certificate_that_cannot_be_verified(world: World, authority: Authority, other: Authority) -> None:
    """Of an unknown CA, or of another host: nothing is sent."""
    with TlsProxy(world.primary.url, authority) as proxy:
        assert "cannot be verified" in refused(world, proxy.url)
        assert "--ca-bundle" in refused(world, proxy.url)
        assert "cannot be verified" in refused(world, proxy.url, "--ca-bundle", other.bundle)
    with TlsProxy(world.primary.url, authority, host="primary.example.com") as elsewhere:
        message = refused(world, elsewhere.url, "--ca-bundle", authority.bundle)
        assert "cannot be verified: IP address mismatch, certificate is not valid for '127.0.0.1'." in message
        assert "check the name in --primary-url" in message.lower()
    assert elsewhere.served == proxy.served == 0


def test_a_primary_that_wants_another_certificate_of_ours(
    world: World, authority: Authority, other: Authority
) -> None:
    """None at all, or one of a CA that it does not know: an operator must act."""
    with TlsProxy(world.primary.url, authority, clients=authority) as proxy:
        trust = ("--ca-bundle", authority.bundle)
        for more in ((), ("--replica-cert", other.client_cert())):
            message = refused(world, proxy.url, *trust, *more)
            assert "does not accept our TLS certificate" in message
            assert "--replica-cert" in message


def test_files_that_are_none(world: World, authority: Authority, tmp_path: Path) -> None:
    """Each is refused by name, before anybody is asked anything."""
    empty = tmp_path / "empty"
    empty.touch(0o600)
    loose = authority.client_cert("loose")
    loose.chmod(0o640)
    keyless = tmp_path / "keyless"
    keyless.touch(0o600)
    keyless.write_bytes(authority.bundle.read_bytes())
    for option, path, why in (
        ("--ca-bundle", tmp_path / "nosuch", "No such file"),
        ("--ca-bundle", empty, "no certificates in PEM form"),
        ("--ca-bundle", tmp_path, "--ca-bundle"),
        ("--replica-cert", tmp_path / "nosuch", "No such file"),
        ("--replica-cert", empty, "no certificate in PEM form"),
        ("--replica-cert", keyless, "no certificate in PEM form"),
        ("--replica-cert", loose, "others may read it"),
    ):
        message = refused(world, "https://127.0.0.1:9", option, path, code=2)
        assert why in message
        assert str(path) in message


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_in_the_environment_that_is_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """SSL_CERT_FILE is as good a place for a mistake as an option."""
    path = tmp_path / "bundle"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    message = refused(world, "https://127.0.0.1:9", code=2)
    assert f"cannot read {path} (SSL_CERT_FILE)" in message
