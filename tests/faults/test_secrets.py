"""Neither the secret, nor the key made of it, nor a token is ever shown or stored."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replisync.devpi.tokens import KeyCost, derive_key
from replisync.seed.export.tools import run_tool
from tests.edges.standbys import context
from tests.faults.conftest import World
from tests.support.devpi import make_secret
from tests.support.runs import Background, run_here

DEBUG = ("--log-level", "debug")


def secrets_of(world: World, secretfile: Path) -> set[bytes]:
    """Return everything that nobody may see: the secret, its key in two forms, and the tokens so far."""
    secret = secretfile.read_bytes()
    key = derive_key(secret, KeyCost(64, 1, 1))
    sent = {request.headers.get("Authorization", "") for request in world.proxy.requests}
    tokens = {header.removeprefix("Bearer ").encode() for header in sent if header}
    signatures = {token.rpartition(b".")[2] for token in tokens}
    return {secret, key, key.hex().encode(), *tokens, *signatures}


def assert_unseen(secrets: set[bytes], text: bytes, where: str) -> None:
    """Check that none of the secrets is in a text."""
    found = [number for number, secret in enumerate(sorted(secrets)) if secret in text]
    assert not found, f"a secret is in {where}"


def assert_nothing_stored(secrets: set[bytes], folder: Path) -> None:
    """Check all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            assert_unseen(secrets, path.read_bytes(), str(path))


def test_runs_that_succeed(world: World) -> None:
    """Clone, catchup, rewind and follow at the level debug, and what they leave."""
    said = []
    new, standby = world.folder / "new", world.standby()
    for command, options in (
        ("clone", world.new(new)),
        ("catchup", world.options(standby)),
        ("rewind", world.options(standby, "--to-serial", world.early_serial)),
    ):
        done = run_here(command, *options, before=DEBUG)
        said.append(done.stdout + str(done.logs))
    log, options = world.folder / "follow.log", world.options(new)
    with Background(log, "follow", *options, before=DEBUG, from_scratch=True) as follower:
        follower.wait_for_log("following")
        follower.wait_for(lambda: f"/+changelog/{world.serial + 1}" in world.proxy.paths(), "it polls")
        cmdline = Path(f"/proc/{follower.pid}/cmdline").read_bytes()
        follower.stop()
    secrets = secrets_of(world, world.secretfile)
    assert len(secrets) >= 5, "no token was sent"
    assert_unseen(secrets, "".join(said).encode(), "what was said")
    assert_unseen(secrets, cmdline, "the list of processes")
    for folder in (new, standby):
        assert (folder / ".replisync").is_dir()
        assert_nothing_stored(secrets, folder)
    assert_unseen(secrets, log.read_bytes(), "the log")


@pytest.mark.parametrize(
    "effects",
    [
        {"path": r"/\+changelog", "status": 403},
        {"path": r"/\+changelog/\d+-", "garbage_at": 6},
        {"path": r"/\+changelog", "cut_after": 3},
        {"path": "/alice", "status": 404},
        {"headers": {"X-DEVPI-PRIMARY-UUID": "0" * 32}},
        {"path": r"/\+changelog", "status": 302, "location": "http://127.0.0.1:9/"},
    ],
    ids=str,
)
def test_runs_that_fail(world: World, effects: dict[str, object]) -> None:
    """Errors name what was attempted, never with what."""
    target = world.standby()
    with world.proxy.fault(**effects):
        log = world.folder / "catchup.log"
        options = world.options(target, "--patience", 1)
        with Background(log, "catchup", *options, before=DEBUG) as catchup:
            assert catchup.process.wait(60) in (3, 4, 5)
    secrets = secrets_of(world, world.secretfile)
    assert_unseen(secrets, log.read_bytes(), "the log")
    assert_nothing_stored(secrets, target)


def test_a_secret_that_the_primary_refuses(world: World) -> None:
    """A wrong secret is as secret as a right one: it may be that of another server."""
    wrong = make_secret(world.folder / "wrong" / "secret")
    target = world.standby()
    done = run_here("catchup", *world.options(target, "--secretfile", wrong), code=4, before=DEBUG)
    secrets = secrets_of(world, wrong)
    assert_unseen(secrets, (done.message + done.stdout + str(done.logs)).encode(), "what was said")
    assert_nothing_stored(secrets, target)


def test_the_key_file(world: World) -> None:
    """The key is in its file alone, which nobody else may read."""
    output = world.folder / "key"
    done = run_here("derive-key", "--secretfile", world.secretfile, "--output", output, before=DEBUG)
    secrets = secrets_of(world, world.secretfile)
    assert_unseen(secrets, (done.stdout + str(done.logs)).encode(), "what was said")
    assert output.stat().st_mode & 0o777 == 0o600
    assert world.secretfile.read_bytes() not in output.read_bytes()
    target = world.standby()
    done = run_here("catchup", "--serverdir", target, "--replica-keyfile", output, before=DEBUG)
    assert_unseen(
        secrets_of(world, world.secretfile), (done.stdout + str(done.logs)).encode(), "what was said"
    )
    assert_nothing_stored(secrets_of(world, world.secretfile), target)


@pytest.mark.parametrize("command", ["clone", "catchup"])
def test_a_password_in_the_url(world: World, command: str) -> None:
    """It is refused before it can end up in a log, and not repeated."""
    url = world.proxy.url.replace("http://", "http://alice:hunter2@")
    target = world.standby() if command == "catchup" else world.folder / "new"
    options = world.options(target, "--primary-url", url)
    said = run_here(command, *options, code=2, before=DEBUG)
    assert "hunter2" not in said.message + said.stdout + str(said.logs)
    if command == "catchup":
        assert_nothing_stored({b"hunter2"}, target)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files that others own")
def test_a_secret_file_that_others_may_read(world: World) -> None:
    """As devpi-server does it, such a file is refused."""
    loose = make_secret(world.folder / "loose" / "secret")
    loose.write_bytes(world.secretfile.read_bytes())
    loose.chmod(0o644)
    said = run_here("catchup", *world.options(world.standby(), "--secretfile", loose), code=2)
    assert "others may read it" in said.message


def test_the_password_of_a_database_is_covered_in_the_list_of_processes() -> None:
    """Until it is read it stands there: the environment and the configuration are the better places."""
    program = (
        "import sys; from pathlib import Path; from replisync.cli.options import cover_password\n"
        "cover_password(None, None, sys.argv[1]); print(Path('/proc/self/cmdline').read_bytes())"
    )
    words = [sys.executable, "-c", program, "pg8000:user=u,password=hunter2,database=d"]
    shown = subprocess.run(words, capture_output=True, encoding="utf-8", check=True).stdout
    assert "user=u" in shown
    assert "database=d" in shown
    assert "hunter2" not in shown


def test_devpis_tools_get_no_secrets_by_way_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("REPLISYNC_CLONE_ROOT_PASSWD", "hunter3")
    monkeypatch.setenv("UNHARMED", "by it")
    said = tmp_path / "said"
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nenv\n")
    tool.chmod(0o755)
    assert run_tool([str(tool)], said, context()) is None
    assert "UNHARMED" in said.read_text()
    assert "hunter" not in said.read_text()
