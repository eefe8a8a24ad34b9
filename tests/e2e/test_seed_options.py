"""The options of devpi-export and devpi-import, which have their names and effects here too."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.dumps import Dump
from tests.support.history import read_history
from tests.support.runs import Background, run_here
from tests.support.upstream import Upstream
from tests.support.waiting import wait_until

PASSWORD = 'root\'s "pass\\word": ä\u2028{%'
# Of the password `secret`, by devpi-server.
HASH = "$argon2id$v=19$m=65536,t=3,p=4$am1tbQ1h7B1DKOXcm1OKEQ$xP1WRvr0pi6niSUMn9utT25f1ZEuDnFRSnlCFkhtNSY"


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump in which root has no password; change nothing in it."""
    dump = Dump(tmp_path_factory.mktemp("dump") / "dump")
    dump.index("root/dev")
    dump.index("root/mirror", "mirror", mirror_url="http://127.0.0.1:1/simple/")
    return dump.write()


def indexes(serverdir: Path) -> set[str]:
    latest = read_history(serverdir).latest()
    users = {key.partition("/")[0]: value for key, (name, _, value) in latest.items() if name == "USER"}
    return {f"{user}/{index}" for user, value in users.items() for index in value["indexes"]}


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().decode(errors="replace")
        except OSError:
            continue


def test_the_password_of_root_is_set_and_nobody_sees_it(dump: Path, tmp_path: Path, secretfile: Path) -> None:
    """Not in the list of processes, neither ours nor devpi-import's, not in the log, nor on disk."""
    target, log = tmp_path / "copy", tmp_path / "log"
    seen: set[str] = set()
    modes: set[int] = set()

    def imports() -> bool:
        seen.update(line for line in command_lines() if str(target) in line)
        with suppress(FileNotFoundError):
            modes.add((target / ".replisync/seed/import.yml").stat().st_mode & 0o777)
        return any("devpi-import" in line for line in seen)

    hidden = ("--root-passwd", PASSWORD, "--no-root-pypi", "--no-events")
    words = ("clone", "--serverdir", target, "--from-export", dump, *hidden)
    # A process of its own, in whose command line the password stands at first.
    with Background(log, *words, from_scratch=True) as run:
        run.wait_for(imports, "devpi-import runs")
        seen.clear()
        wait_until(lambda: imports() and run.process.poll() is not None, 120, "its end")
        assert run.process.returncode == 0, run.text
    assert modes == {0o600}
    assert len(seen) >= 2
    assert [line for line in seen if PASSWORD in line] == []
    assert PASSWORD not in log.read_text()
    assert list(target.rglob("*.yml")) == []
    with Server(target, role="standalone", secretfile=secretfile) as server, Client(server.url) as client:
        client.login("root", PASSWORD)


def test_options_of_devpi_import_are_passed_on_and_those_of_the_machine_are_not(
    dump: Path, tmp_path: Path, secretfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What devpi-server is told on this machine is not meant for us: it may be a database that is in use."""
    target = tmp_path / "copy"
    config = tmp_path / "config/devpi-server/devpi-server.yml"
    config.parent.mkdir(parents=True)
    config.write_text("devpi-server:\n  storage: pg8000:host=127.0.0.1,port=1\n")
    with monkeypatch.context() as machine:
        machine.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        machine.setenv("DEVPISERVER_STORAGE", "pg8000:host=127.0.0.1,port=1")
        machine.setenv("REPLISYNC_CLONE_ROOT_PASSWD_HASH", HASH)
        options = ("--skip-import-type", "mirror", "--no-events")
        run_here("clone", "--serverdir", target, "--from-export", dump, *options)
    # As in devpi-import, which makes root/pypi unless it is told not to.
    assert indexes(target) == {"root/dev", "root/pypi"}
    with Server(target, role="standalone", secretfile=secretfile) as server, Client(server.url) as client:
        client.login("root", "secret")


def test_files_of_mirrors_are_exported_where_that_is_asked_for(
    primary: Server, upstream: Upstream, tmp_path: Path
) -> None:
    """As by devpi-export itself: only those that the server has."""
    filename, content = upstream.add_wheel("plain", "1.0", b"kept")
    upstream.add_wheel("plain", "2.0", b"never asked for")
    with Client(primary.url) as client:
        client.login()
        client.create_mirror("root/mirror", upstream.simple_url)
        kept = client.links("root/mirror", "plain")[filename]
        client.fetch(kept)
    wait_until(
        lambda: kept in read_history(primary.serverdir).live_files,
        20,
        "the primary has committed what it keeps",
    )
    primary.stop()
    source = ("--from-serverdir", primary.serverdir, "--seed", "export")
    for option, expected in (("--include-mirrored-files", [kept]), ("--no-include-mirrored-files", [])):
        target = tmp_path / option
        run_here("clone", "--serverdir", target, *source, option)
        found = read_history(target).live_files
        assert list(found) == expected
        assert all((target / "+files" / path).read_bytes() == content for path in found)
        assert indexes(target) == {"root/mirror"}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--skip-import-type", "mirror"), "all indexes of its primary"),
        (("--root-passwd", PASSWORD), "the users of its primary"),
        (("--root-passwd-hash", "hash"), "the users of its primary"),
        (("--include-mirrored-files",), "only the settings of mirrors"),
    ],
)
def test_what_would_make_a_standby_another_than_its_primary_is_refused(
    dump: Path, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    """Before anything is written, and before anybody is asked."""
    new = ("--serverdir", tmp_path / "new", "--primary-url", "http://127.0.0.1:1", "--from-export", dump)
    said = run_here("clone", *new, "--at-serial", 5, *option, code=2)
    assert option[0] in said.message
    assert words in said.message
    assert PASSWORD not in said.message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("source", "option"),
    [
        (("--primary-url", "http://127.0.0.1:1"), "--no-events"),
        (("--from-serverdir", "nowhere"), "--no-root-pypi"),
        (("--from-serverdir", "nowhere", "--seed", "changelog"), "--include-mirrored-files"),
    ],
)
def test_options_without_an_export_to_give_them_to_are_refused(
    tmp_path: Path, source: tuple[str, ...], option: str
) -> None:
    said = run_here("clone", "--serverdir", tmp_path / "new", *source, option, code=2)
    assert "--seed export" in said.message
    assert not (tmp_path / "new").exists()


def test_a_dump_that_is_made_already_is_as_it_is(dump: Path, tmp_path: Path) -> None:
    said = run_here(
        *("clone", "--serverdir", tmp_path / "new", "--from-export", dump, "--no-include-mirrored-files"),
        code=2,
    )
    assert "the dump already" in said.message
