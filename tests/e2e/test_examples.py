"""The examples do what they say: each is run, with its paths and addresses filled in."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from replisync import errors
from tests.support.cli import replisync
from tests.support.client import Client
from tests.support.devpi import FAST_ARGON2, Server
from tests.support.oracle import assert_replicated
from tests.support.pip import pip_install
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.snapshot import assert_untouched, last_serial, snapshot
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
UNITS = ("replisync-follow@.service", "replisync-catchup@.service", "replisync-catchup@.timer")
INSTANCE = "main"
INDEX = "alice/dev"
RUN_SECONDS = 120


@dataclass(frozen=True)
class Site:
    """A primary, and a host with one standby that is set up as the examples say."""

    primary: Server
    client: Client
    folder: Path
    key: Path

    @property
    def standby(self) -> Path:
        """The standby's folder; tests that change it work on a copy of the site."""
        return self.folder / "var" / INSTANCE

    @property
    def configuration(self) -> Path:
        """The example configuration, with this site's paths and addresses."""
        return self.folder / "etc" / f"{INSTANCE}.toml"

    def copy(self, folder: Path) -> "Site":
        """Return the same site on another host."""
        shutil.copytree(self.standby, folder / "var" / INSTANCE)
        return _configured(Site(self.primary, self.client, folder, self.key))

    def upload(self, version: str) -> int:
        """Upload a wheel and return the primary's serial with it."""
        self.client.upload_wheel(INDEX, "demo", version)
        return self.primary.serial()

    def configured(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the example configuration and nothing else."""
        return _run([sys.executable, "-m", "replisync", "-c", str(self.configuration), *arguments])


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Site]:
    """A site whose standby was cloned with the example configuration alone; change nothing in it."""
    folder = tmp_path_factory.mktemp("examples")
    with Server(folder / "primary", secretfile=secretfile).init() as primary, Client(primary.url) as client:
        client.login()
        client.create_user("alice", "secret")
        client.login("alice", "secret")
        client.create_index(INDEX)
        client.upload_wheel(INDEX, "demo", "1.0")
        key = folder / "key"
        replisync("derive-key", "--secretfile", secretfile, "--output", key)
        site = _configured(Site(primary, client, folder, key))
        site.configured("clone")
        yield site


@pytest.fixture
def site(origin: Site, tmp_path: Path) -> Site:
    """A site of the test's own, with the same primary."""
    return origin.copy(tmp_path)


def _configured(site: Site) -> Site:
    text = _filled(
        (EXAMPLES / "replisync.toml").read_text(),
        {
            "/var/lib/replisync/main": str(site.standby),
            "/etc/replisync/main.key": str(site.key),
            "https://devpi.example.com/": f"{site.primary.url}/",
        },
    )
    site.configuration.parent.mkdir(parents=True)
    site.configuration.write_text(text)
    return site


def _filled(text: str, values: Mapping[str, str]) -> str:
    for example, value in values.items():
        assert example in text, f"the example no longer says {example}"
        text = text.replace(example, value)
    return text


def _run(
    command: list[str], *, check: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_SECONDS,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == check, f"{shlex.join(command)} ended with {done.returncode}:\n{said}"
    return done


# The configuration.


def test_the_configuration_alone_serves_every_command(site: Site) -> None:
    """The clone was made with it too."""
    site.configured("catchup")
    assert_replicated(site.primary, site.standby, export=False, fsck=False)
    status = json.loads(site.configured("status", "--json").stdout)
    assert (status["state"], status["lag_serials"]) == ("current", 0)
    assert "would be a primary" in site.configured("promote", "--dry-run").stdout
    assert site.configured("faults", "list").stdout == "no faults\n"


# The units.


def _unit(name: str) -> configparser.ConfigParser:
    # Some keys may come twice in a unit, but none of ours does.
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(EXAMPLES / name)
    return parser


def _exec_start(name: str, site: Site) -> list[str]:
    """Return the command of a unit as systemd would run it on this site."""
    filled = _filled(
        _unit(name)["Service"]["ExecStart"],
        {
            "/opt/replisync/bin/replisync": f"{sys.executable} -m replisync",
            "/etc/replisync/%i.toml": str(site.configuration),
        },
    )
    assert "%" not in filled, f"another specifier than %i: {filled}"
    return shlex.split(filled)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here; the commands of the units are run all the same")
    for other in UNITS:
        text = (EXAMPLES / other).read_text().replace("/opt/replisync/bin/replisync", sys.executable)
        (tmp_path / other.replace("@", f"@{INSTANCE}")).write_text(text)
    done = _run([analyze, "verify", "--man=no", str(tmp_path / name.replace("@", f"@{INSTANCE}"))])
    complaints = [line for line in done.stderr.splitlines() if "replisync" in line]
    assert not complaints, "\n".join(complaints)


def test_the_follow_unit_applies_an_upload_and_ends_cleanly_on_sigterm(site: Site) -> None:
    log = site.folder / "follow.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _exec_start("replisync-follow@.service", site),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        serial = site.upload("2.0")

        def arrived() -> bool:
            assert process.poll() is None, log.read_text()
            return last_serial(site.standby) >= serial

        wait_until(arrived, 60, f"serial {serial} arrives")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_catchup_unit_brings_the_standby_up_to_date(site: Site) -> None:
    serial = site.upload("3.0")
    _run(_exec_start("replisync-catchup@.service", site))
    assert last_serial(site.standby) == serial


def test_the_timer_starts_the_unit_of_its_own_name() -> None:
    assert "Unit" not in _unit("replisync-catchup@.timer")["Timer"]
    assert (EXAMPLES / "replisync-catchup@.service").is_file()


def test_the_follow_unit_is_not_started_again_where_an_operator_must_act() -> None:
    classes = [errors.UsageError, errors.PrimaryRefused, errors.WrongHistory, errors.TargetUnusable]
    prevented = _unit("replisync-follow@.service")["Service"]["RestartPreventExitStatus"].split()
    assert {int(code) for code in prevented} == {cls.exit_code for cls in classes}
    assert not any(cls.transient for cls in classes)


@pytest.mark.parametrize("name", UNITS[:2])
def test_a_unit_may_write_its_own_standby_and_nothing_else(name: str) -> None:
    service = _unit(name)["Service"]
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service
    directory = f"/var/lib/{service['StateDirectory']}".replace("%i", INSTANCE)
    assert f'serverdir = "{directory}"' in (EXAMPLES / "replisync.toml").read_text()


# The failover.


@dataclass(frozen=True)
class Failover:
    """A failover on a site: how the script is called, and the server that it starts."""

    site: Site
    url: str
    environment: dict[str, str]

    @property
    def started(self) -> Path:
        """Holds the process id of the server once it is started."""
        return self.site.folder / "server.pid"

    def __call__(self, *options: str, check: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        script = str(EXAMPLES / "failover.sh")
        return _run([script, *options], check=check, env={**self.environment, **settings})


@pytest.fixture
def failover(site: Site, secretfile: Path) -> Iterator[Failover]:
    """The script, ready to run on a site; the server that it starts is ended at the end."""
    bin_dir, port = Path(sys.executable).parent, free_port()
    server = [bin_dir / "devpi-server", "--serverdir", site.standby, "--role", "primary", "--port", port]
    server += ["--secretfile", secretfile, *FAST_ARGON2]
    start = f"{shlex.join(map(str, server))} >server.log 2>&1 </dev/null & echo $! >server.pid"
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "SERVERDIR": str(site.standby),
        "KEYFILE": str(site.key),
        "STOP_FOLLOW": "",
        "START_SERVER": f"cd {shlex.quote(str(site.folder))} && {{ {start}; }}",
        "SERVER_URL": f"http://127.0.0.1:{port}",
    }
    with ExitStack() as stack:
        subject = Failover(site, environment["SERVER_URL"], environment)
        stack.callback(_kill_started, subject.started)
        yield subject


def _kill_started(pidfile: Path) -> None:
    if pidfile.exists():
        pid = int(pidfile.read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_dry_run_of_the_failover_changes_nothing(failover: Failover) -> None:
    site = failover.site
    site.upload("4.0")
    before = snapshot(site.standby)
    marker = site.folder / "marker"
    done = failover("--dry-run", FENCE=f"touch {marker}", STOP_FOLLOW=f"touch {marker}")
    assert_untouched(site.standby, before)
    assert not marker.exists()
    assert not failover.started.exists()
    assert "dry run: nothing was changed" in done.stdout
    assert "replisync promote --serverdir" in done.stdout


def test_a_planned_failover_loses_nothing_and_its_server_takes_uploads(failover: Failover) -> None:
    site = failover.site
    fenced = site.folder / "fenced"
    serial = site.upload("5.0")
    done = failover(FENCE=f"touch {shlex.quote(str(fenced))}")
    assert fenced.exists()
    assert f"{failover.url} is the primary now, at serial {serial}" in done.stdout
    with Client(failover.url) as client:
        client.login("alice", "secret")
        client.upload_wheel(INDEX, "after", "1.0")
    pip_install(f"{failover.url}/{INDEX}/+simple/", "demo==5.0", site.folder / "site", "after")
    replisync("catchup", "--serverdir", site.standby, "--replica-keyfile", site.key, check=6)


def test_a_failover_that_would_lose_serials_needs_to_be_told(failover: Failover) -> None:
    """The primary is gone, and the standby knows of serials that it does not have."""
    site = failover.site
    known = site.upload("6.0")
    site.configured("catchup", "--to-serial", str(known - 1))
    site.primary.stop()
    try:
        refused = failover(check=9, PRIMARY_WAIT="1")
        assert "it does not answer itself" in refused.stdout
        assert re.search(rf"the primary is at serial {known}, 1 ahead", refused.stderr)
        assert not failover.started.exists()
        assert json.loads((site.standby / ".nodeinfo").read_text())["role"] == "replica"
        told = failover("--accept-loss", PRIMARY_WAIT="1")
        assert f"is the primary now, at serial {known - 1}" in told.stdout
    finally:
        site.primary.start()


def test_a_failover_is_not_held_up_by_what_answers_for_a_dead_primary(
    failover: Failover, secretfile: Path
) -> None:
    """A router's 404, and a replica under its name, do not count as alive; nor as the new primary."""
    site = failover.site
    replica = Server(
        site.folder / "replica", role="replica", primary_url=site.primary.url, secretfile=secretfile
    )
    with Proxy(site.primary.url) as name, replica.init():
        site.configured("catchup", "--primary-url", name.url)
        serial = last_serial(site.standby)
        replica.wait_for_serial(serial)
        site.primary.stop()
        try:
            with name.fault(status=404):
                replisync("catchup", *_options(site), "--timeout", 1, check=3)
            name.target_url = replica.url
            done = failover(PRIMARY_WAIT="1", SERVER_URL=name.url, SERVER_WAIT="1", check=1)
            assert f"the standby stays at serial {serial}" in done.stdout
            assert "it does not answer itself" in done.stdout
            assert f"the new primary does not answer at {name.url}" in done.stderr
            assert json.loads((site.standby / ".nodeinfo").read_text())["role"] == "primary"
        finally:
            site.primary.start()


def _options(site: Site) -> tuple[object, ...]:
    return ("--serverdir", site.standby, "--replica-keyfile", site.key)


def test_a_failover_with_an_unknown_option_explains_itself(failover: Failover) -> None:
    assert "--accept-loss" in failover("--force", check=2).stderr
