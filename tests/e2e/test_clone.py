"""The first copy: exact, resumable at any point, and never into what is not its own."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.cli import replisync
from tests.support.devpi import Server, make_secret
from tests.support.history import connect, read_history
from tests.support.oracle import assert_fsck, assert_replicated, assert_same_export
from tests.support.ports import free_port
from tests.support.proxy import Fault, Proxy
from tests.support.runs import Background, Outcome, run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby, changed, tree
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

# Well before a silent primary is given up, after 37.5 seconds.
PROMPT_SECONDS = 20


@pytest.fixture
def new(tmp_path: Path, proxy: Proxy, secretfile: Path) -> Standby:
    """A standby that is still to be made, by way of the proxy."""
    return Standby(tmp_path / "new", proxy.url, secretfile)


def test_a_clone_is_its_primary_and_stays_it_when_promoted(still: Server, new: Standby) -> None:
    """History, keys and files are the primary's, devpi-fsck finds nothing, and both export the same."""
    done = replisync("clone", *new.new)
    files = len(read_history(new.serverdir).live_files)
    assert f"at serial {still.serial()}, with" in done.stdout
    assert f"of {files} files" in done.stdout
    assert_replicated(still, new.serverdir, export=False)
    new.promote()
    assert_same_export(still.serverdir, new.serverdir)
    assert_fsck(new.serverdir)


def test_nodeinfo_is_what_a_replica_of_devpi_writes(
    still: Server, cloned: Standby, tmp_path: Path, secretfile: Path
) -> None:
    """Same fields, values and mode, so that a hot standby starts on it; only the UUID is another."""
    replica = Server(tmp_path / "replica", role="replica", primary_url=still.url, secretfile=secretfile)
    with replica.init():
        wait_until(lambda: "primary-uuid" in replica.nodeinfo(), 30, "the replica knows its primary")
    ours = json.loads((cloned.serverdir / ".nodeinfo").read_bytes())
    assert {**replica.nodeinfo(), "uuid": ours["uuid"]} == ours
    assert ours["uuid"] not in (replica.nodeinfo()["uuid"], still.uuid())
    modes = {(folder / ".nodeinfo").stat().st_mode for folder in (replica.serverdir, cloned.serverdir)}
    assert len(modes) == 1


def test_nodeinfo_is_written_last(cloned: Standby) -> None:
    """Nothing that a devpi-server reads is younger than the file that lets it start."""
    times = {name: found[1] for name, found in tree(cloned.serverdir).items()}
    last = times.pop(".nodeinfo")
    devpis = [name for name in times if name.startswith((".event", ".serverv", "+files/"))]
    assert len(devpis) > 50
    assert [name for name in devpis if times[name] > last] == []


# Targets that are no place for a clone


def test_a_finished_standby_is_not_cloned_again(standby: Standby) -> None:
    """The second clone says what it found, and changes nothing at all."""
    before = tree(standby.serverdir)
    said = standby.clone(code=6)
    assert "finished standby" in said.message
    assert "catchup" in said.message
    assert changed(before, standby.serverdir) == []


@pytest.mark.parametrize("kind", ["a file of somebody", "a devpi-server", "a file instead of a folder"])
def test_what_is_somebody_elses_is_not_cloned_into(
    new: Standby, populated_serverdir: Path, kind: str
) -> None:
    """A folder that is not empty is left as it is."""
    if kind == "a devpi-server":
        shutil.copytree(populated_serverdir, new.serverdir)
    elif kind == "a file of somebody":
        new.serverdir.mkdir()
        (new.serverdir / "notes.txt").write_text("mine")
    else:
        new.serverdir.write_text("mine")
    before = tree(new.serverdir.parent)
    said = new.clone(code=6)
    assert "not empty" in said.message or "no folder" in said.message
    assert changed(before, new.serverdir.parent) == []


def test_an_empty_folder_is_cloned_into(still: Server, new: Standby) -> None:
    """A folder that an operator prepared, such as a mount point, is taken."""
    new.serverdir.mkdir(mode=0o750)
    (new.serverdir / "lost+found").mkdir()
    new.clone()
    assert new.serverdir.stat().st_mode & 0o777 == 0o750
    assert_replicated(still, new.serverdir, export=False, fsck=False)


@pytest.mark.parametrize("way", ["changelog", "base copy", "export"])
def test_the_folder_of_a_clone_is_its_owners_alone(new: Standby, populated_serverdir: Path, way: str) -> None:
    """Whatever the umask, and nothing is warned of."""
    source = () if way == "changelog" else ("--from-serverdir", populated_serverdir)
    more = ("--seed", "export") if way == "export" else ()
    former = os.umask(0)
    try:
        said = new.clone(*source, *more)
    finally:
        os.umask(former)
    assert new.serverdir.stat().st_mode & 0o7777 == 0o700
    assert readers(said) == []


def readers(said: Outcome) -> list[dict[str, Any]]:
    """Return the warnings that others can read a serverdir."""
    return [line for line in said.logs if line["event"] == "others can read the serverdir"]


def test_a_folder_that_others_can_read_is_warned_of_once_a_run_and_stays_as_it_is(new: Standby) -> None:
    new.serverdir.mkdir()
    new.serverdir.chmod(0o755)
    for run in (new.clone, new.catchup):
        [warning] = readers(run())
        assert warning["level"] == "warning"
        assert warning["hint"] == f"run `chmod o-rwx {new.serverdir}`"
    [warning] = readers(run_here("clone", "--reseed", *new.with_secret))
    assert new.serverdir.stat().st_mode & 0o777 == 0o755
    subprocess.run(["sh", "-c", warning["hint"].split("`")[1]], check=True)
    assert readers(new.catchup()) == []
    new.serverdir.chmod(0o750)
    assert readers(new.catchup()) == []
    assert new.serverdir.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("mistake", "code"), [("secret", 4), ("port", 3), ("path", 4), ("server", 4), ("url", 2)]
)
def test_a_mistake_leaves_no_folder_behind(
    new: Standby, tmp_path: Path, populated_upstream: Upstream, mistake: str, code: int
) -> None:
    """Whatever is wrong with the primary's address or the secret shows before anything is written."""
    urls = {
        "port": f"http://127.0.0.1:{free_port()}",
        "path": f"{new.primary_url}/root/dev",
        "server": populated_upstream.url,
        "url": "ftp://127.0.0.1/",
    }
    secret = make_secret(tmp_path / "wrong" / "secret") if mistake == "secret" else new.secretfile
    wrong = Standby(new.serverdir, urls.get(mistake, new.primary_url), secret)
    wrong.clone("--patience", "0.1", code=code)
    assert not new.serverdir.exists()


def test_a_target_of_a_newer_replisync_is_refused(standby: Standby) -> None:
    """Tables whose version is not known are neither read nor written, by no command."""
    with closing(connect(standby.serverdir, write=True)) as database, database:
        database.execute("UPDATE replisync_schema SET version_num = '9999'")
    before = snapshot(standby.serverdir)
    commands = {"catchup": standby.with_secret, "promote": standby.own, "status": standby.own}
    for command, options in commands.items():
        assert "9999" in run_here(command, *options, code=6).message
        assert_untouched(standby.serverdir, before)
    (standby.serverdir / ".nodeinfo").unlink()
    before = snapshot(standby.serverdir)
    assert "9999" in standby.clone(code=6).message
    assert_untouched(standby.serverdir, before)


# Interruptions


@pytest.fixture
def interrupted(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy, to be told where answers stand still."""
    yield proxy
    proxy.clear()


FILES = r"/[a-z]+/[a-z]+/%2B"

STALLS = {
    # The stream of the history stops in the middle.
    "metadata": Fault(path=r"/\+changelog/0-", stall_after=100_000),
    # A few files arrive, the next ones stop in the middle.
    "files": Fault(path=FILES, skip=12, stall_after=40),
    # All files are there; the question what happened meanwhile gets no answer.
    "end": Fault(path=r"/\+changelog/", skip=4, stall_after=0),
}


def begin(new: Standby, proxy: Proxy, stage: str) -> Background:
    """Start a clone that comes to a halt in a stage; return it when it is there."""
    stall = STALLS[stage]
    fault = proxy.add(Fault(path=stall.path, skip=stall.skip, stall_after=stall.stall_after))
    clone = Background(new.serverdir.with_name("clone.log"), "clone", *new.new)
    try:
        clone.wait_for(lambda: fault.done, f"it is in the stage {stage!r}")
    except BaseException:
        clone.kill()
        raise
    return clone


def arrived(new: Standby) -> set[str]:
    """Return the relpaths of the files that are in place."""
    root = new.serverdir / "+files"
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def check_resumed(still: Server, new: Standby, proxy: Proxy, before: set[str]) -> None:
    """Run the same clone to its end; nothing that was there is fetched again."""
    assert not (new.serverdir / ".nodeinfo").exists()
    proxy.clear()
    proxy.requests.clear()
    new.clone()
    assert_replicated(still, new.serverdir, export=False, fsck=False)
    asked_for = set(proxy.paths())
    again = [relpath for relpath in before if "/" + quote(relpath) in asked_for]
    assert again == []


@pytest.mark.parametrize("stage", STALLS)
def test_a_clone_that_was_killed_goes_on(still: Server, new: Standby, interrupted: Proxy, stage: str) -> None:
    """After SIGKILL the same command goes on where it was, and what was fetched is not fetched again."""
    with begin(new, interrupted, stage) as clone:
        if stage == "files":
            clone.wait_for(lambda: len(arrived(new)) >= 12, "some files are in place")
    before = arrived(new)
    assert (stage == "metadata") == (before == set())
    check_resumed(still, new, interrupted, before)


@pytest.mark.parametrize("stage", STALLS)
def test_a_clone_that_is_told_to_end_does_so_and_goes_on(
    still: Server, new: Standby, interrupted: Proxy, stage: str
) -> None:
    """SIGTERM ends a clone promptly, even while the primary is silent; the same command goes on."""
    with begin(new, interrupted, stage) as clone:
        clone.process.send_signal(signal.SIGTERM)
        assert clone.process.wait(PROMPT_SECONDS) != 0, "an incomplete clone is no success"
        assert "Traceback" not in clone.text
    check_resumed(still, new, interrupted, arrived(new))


# Secrets


def test_a_derived_key_opens_the_changelog_in_the_secrets_place(
    still: Server, new: Standby, tmp_path: Path
) -> None:
    """The key file is private, does not hold the secret, and is enough for all commands that replicate."""
    keyfile = tmp_path / "keys" / "replica.key"
    keyfile.parent.mkdir(mode=0o700)
    run_here("derive-key", "--secretfile", new.secretfile, "--output", keyfile)
    assert keyfile.stat().st_mode & 0o7777 == 0o600
    assert new.secretfile.read_text() not in keyfile.read_text()
    key = ("--replica-keyfile", keyfile)
    run_here("clone", *new.own, *key, "--primary-url", new.primary_url)
    run_here("catchup", *new.own, *key)
    assert_replicated(still, new.serverdir, export=False, fsck=False)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """devpi-server refuses such a file, and so do we, before anything is written."""
    secret = make_secret(tmp_path / "secret" / "secret")
    secret.chmod(mode)
    key = tmp_path / "key"
    said = run_here("derive-key", "--secretfile", secret, "--output", key, code=2)
    assert "others may read it" in said.message
    assert "chmod" in said.message
    assert not key.exists()
    said = run_here(
        "clone",
        "--serverdir",
        tmp_path / "new",
        "--secretfile",
        secret,
        "--primary-url",
        "http://127.0.0.1:1",
        code=2,
    )
    assert os.listdir(tmp_path) == ["secret"]
