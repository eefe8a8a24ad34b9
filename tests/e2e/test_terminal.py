"""Commands on a terminal: bars, log lines above them, and nothing that a terminal does ends a run."""

import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.proxy import Fault, Proxy
from tests.support.runs import REPLISYNC, arguments
from tests.support.standby import Standby
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\S+Z \[")
# A foreground colour, as SGR has it.
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]")


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Server]:
    """A primary with an index, to which all tests here upload."""
    serverdir = tmp_path_factory.mktemp("terminal") / "primary"
    with Server(serverdir, secretfile=secretfile).init() as server:
        with Client(server.url).login() as client:
            client.create_index("root/dev", volatile=True)
            for number in range(6):
                client.upload_wheel("root/dev", f"first{number}", "1.0")
        yield server


@pytest.fixture
def client(primary: Server) -> Iterator[Client]:
    """Root, logged in at the primary."""
    with Client(primary.url).login() as client:
        yield client


@pytest.fixture
def standby(tmp_path: Path, primary: Server, secretfile: Path) -> Standby:
    """Where the tests make their standby."""
    return Standby(tmp_path / "standby", primary.url, secretfile)


def replisync(
    command: str,
    *args: object,
    program: Sequence[str] = REPLISYNC,
    before: Sequence[str] = (),
    columns: int = 120,
    rows: int = 40,
    environment: Mapping[str, str | None] | None = None,
    stdout: Path | None = None,
) -> Terminal:
    """Start a command on a terminal.

    before: options that come before the command.
    """
    words = [*program, *before, *arguments(command, *args)]
    return Terminal(words, columns=columns, rows=rows, environment=environment, stdout=stdout)


def logged(lines: list[str], *events: str) -> None:
    """Check that events were logged, in this order, and that each log line has a line of its own."""
    stamped = [line for line in lines if STAMP.search(line)]
    assert all(STAMP.match(line) and len(STAMP.findall(line)) == 1 for line in stamped), lines
    assert not any("━" in line or "Traceback" in line for line in stamped), lines
    assert tuple(line.split("] ")[1].split()[0] for line in stamped) == events, lines


def bars(lines: list[str]) -> list[str]:
    """Return what the lines with bars count."""
    counts = (re.search(r"\d+/(?:\d+|\?) +\w+", line) for line in lines if "━" in line)
    return [" ".join(count[0].split()) for count in counts if count]


def upload(client: Client, standby: Standby, version: str) -> None:
    """Upload a release, and wait until the standby has it."""
    client.upload_wheel("root/dev", "arriving", version)
    serial = int(client.request("GET", "/+api").headers["X-DEVPI-SERIAL"])
    wait_until(lambda: standby.serial >= serial, 30, f"serial {serial} arrives")


def test_follow_shows_each_change_until_it_is_told_to_stop(client: Client, standby: Standby) -> None:
    """One line says where it stands, and each log line has a line of its own."""
    standby.clone()
    with replisync("follow", *standby.with_secret) as terminal:
        terminal.wait_for_text("following")
        for version in ("1.0", "1.1", "1.2", "1.3"):
            upload(client, standby, version)
        terminal.wait_for_text(f"following {standby.primary_url}/ at serial {standby.serial}; last change")
        lines = terminal.end(0, signal.SIGTERM)
    applied = sum("applied" in line for line in lines)
    logged(lines, "following", *["applied"] * applied, "stopped")
    assert applied >= 2, "the changes came in one batch: nothing was shown"
    assert bars(lines) == [], "it has a line of state instead"
    assert standby.status()["last_run"]["outcome"] == "stopped"


@pytest.mark.parametrize(
    ("columns", "rows", "variables"),
    [
        (20, 4, {}),
        (1, 1, {"FORCE_COLOR": "1"}),
        (0, 0, {"PYTHONIOENCODING": "ascii"}),
        (120, 40, {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}),
        (120, 40, {"COLUMNS": "7", "FORCE_COLOR": ""}),
    ],
)
def test_a_clone_in_any_window(
    primary: Server, standby: Standby, columns: int, rows: int, variables: dict[str, str]
) -> None:
    named = Standby(standby.serverdir.with_name("stanðbý日"), standby.primary_url, standby.secretfile)
    with replisync("clone", *named.new, columns=columns, rows=rows, environment=variables) as terminal:
        lines = terminal.end(0)
    # To rich an empty FORCE_COLOR is a terminal that cannot redraw.
    logged(lines, *(("metadata", "files") if variables.get("FORCE_COLOR") == "" else ()))
    assert f"is a standby at serial {primary.serial()}" in lines[-1]


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_can_only_print_lines_is_sent_lines(standby: Standby, term: str | None) -> None:
    with replisync("clone", *standby.new, environment={"TERM": term}) as terminal:
        lines = terminal.end(0)
        assert "\x1b" not in terminal.text
    logged(lines, "metadata", "files")
    assert bars(lines) == []


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_left_out_for_those_who_want_none(
    standby: Standby, variables: dict[str, str], coloured: bool
) -> None:
    with replisync("clone", *standby.new, environment=variables) as terminal:
        lines = terminal.end(0)
        assert bool(COLOUR.search(terminal.text)) == coloured
    logged(lines)
    assert len(bars(lines)) == 2


def test_the_other_commands(client: Client, standby: Standby) -> None:
    """Each counts up to the end, and no further."""
    standby.clone()
    client.upload_wheel("root/dev", "second", "1.0")
    with replisync("catchup", *standby.with_secret) as terminal:
        (count,) = bars(terminal.end(0))
        done, total = count.split()[0].split("/")
        assert done == total
    with replisync("verify", *standby.with_secret, "--level", "primary") as terminal:
        lines = terminal.end(0)
        (files,) = re.findall(r"(\d+) files in place", lines[-1])
        assert f"{files}/{files} files" in bars(lines)
    with replisync("clone", *standby.with_secret, "--reseed") as terminal:
        lines = terminal.end(0)
        assert all(done in (total, files) for done, total in re.findall(r"(\d+)/(\d+|\?) ", str(bars(lines))))
    with replisync("status", *standby.own) as terminal:
        assert terminal.end(0)[0].endswith(": current")


@pytest.mark.parametrize(
    ("effects", "counts"),
    [
        # One answer breaks off, or is a refusal: that file comes after the changes of the meantime.
        ({"cut_after": 10}, ["{all_but_one}/{all} files", "1/1 files"]),
        ({"status": 503}, ["{all_but_one}/{all} files", "1/1 files"]),
    ],
)
def test_files_that_come_later_are_counted_once(
    primary: Server, standby: Standby, effects: dict[str, Any], counts: list[str]
) -> None:
    with Proxy(primary.url) as proxy:
        proxy.add(Fault(path="/root/dev/%2Bf", skip=2, times=1, **effects))
        through = Standby(standby.serverdir, proxy.url, standby.secretfile)
        with replisync("clone", *through.new) as terminal:
            lines = terminal.end(0)
    (files,) = re.findall(r"with (\d+) of", lines[-1])
    assert bars(lines)[1:] == [count.format(all=files, all_but_one=int(files) - 1) for count in counts]
    assert all(STAMP.match(line) for line in lines if "warning" in line), lines


def test_a_large_file_is_shown_by_its_bytes_and_its_name(primary: Server, standby: Standby) -> None:
    """It moves from the first second on; what is left is told from its length."""
    with Client(primary.url).login() as client:
        client.upload_wheel("root/dev", "large", "1.0", bytes(600_000))
    with Proxy(primary.url) as proxy:
        slow = proxy.add(Fault(path="/root/dev/%2Bf/.*large", bytes_per_second=400_000))
        through = Standby(standby.serverdir, proxy.url, standby.secretfile)
        with replisync("clone", *through.new, columns=80) as terminal:
            terminal.wait_for_text("large-1.0-py3-none-any.whl: ")
            assert re.search(r"whl: \d\.\d of \d\.\d MB", terminal.text)
            assert re.search(r"files +[1-9]\.\d MB +0\.\d MB/s", terminal.text)
            proxy.remove(slow)
            lines = terminal.end(0)
    assert not any("large-1.0" in line for line in lines), lines


def test_a_window_may_change_its_size_at_any_time(client: Client, standby: Standby) -> None:
    standby.clone()
    with replisync("follow", *standby.with_secret) as terminal:
        terminal.wait_for_text("following")
        for number, (columns, rows) in enumerate([(40, 10), (1, 1), (0, 0), (300, 80)]):
            terminal.resize(columns, rows)
            upload(client, standby, f"2.{number}")
        assert "stopped" in str(terminal.end(0, signal.SIGINT))


def test_where_stdout_is_no_terminal_it_has_the_result_alone(standby: Standby, tmp_path: Path) -> None:
    result = tmp_path / "result"
    with replisync("clone", *standby.new, "--json", stdout=result) as terminal:
        lines = terminal.end(0)
    logged(lines)
    assert len(bars(lines)) == len(lines)
    assert json.loads(result.read_text())["serverdir"] == str(standby.serverdir)


def test_json_lines_stand_on_lines_of_their_own(standby: Standby) -> None:
    with replisync("clone", *standby.new, before=("--log-format", "json")) as terminal:
        lines = terminal.end(0)
    assert bars(lines) == []
    events = [json.loads(line)["event"] for line in lines if "{" in line]
    assert events == ["metadata", "files"]


def test_follow_ends_with_its_terminal(standby: Standby) -> None:
    """By SIGHUP, as the kernel has it."""
    standby.clone()
    with replisync("follow", *standby.with_secret) as terminal:
        terminal.wait_for_text("following")
        terminal.hang_up()
        wait_until(lambda: terminal.code is not None, 30, "it ends")
        assert terminal.code == -signal.SIGHUP


def test_follow_outlives_its_terminal_where_that_is_wanted(client: Client, standby: Standby) -> None:
    """As after `nohup`: what it says goes nowhere, and what it does goes on, to an end with exit code 0."""
    standby.clone()
    # Buffered, as it is by default: what could not be written is tried again at the very end.
    shell = ("sh", "-c", 'trap "" HUP; unset PYTHONUNBUFFERED; exec "$@"', "sh", *REPLISYNC)
    with replisync("follow", *standby.with_secret, program=shell) as terminal:
        terminal.wait_for_text("following")
        upload(client, standby, "3.0")
        terminal.hang_up()
        upload(client, standby, "3.1")
        upload(client, standby, "3.2")
        terminal.end(0, signal.SIGTERM)
    assert standby.status()["last_run"]["outcome"] == "stopped"


def test_the_demo_leaves_nothing_behind_when_its_terminal_goes() -> None:
    with Terminal([sys.executable, "-m", "tests.demo"]) as terminal:
        terminal.wait_for_text("on 127.0.0.1")
        folder = Path(re.findall(r"It happens in (\S+)", terminal.text)[0])
        assert folder.is_dir()
        terminal.hang_up()
        wait_until(lambda: terminal.code is not None, 60, "it ends")
        assert terminal.code == 130
        assert not folder.exists()
