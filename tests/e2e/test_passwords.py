"""Users without a password, such as those of LDAP: an export seeds them so, and older seeds are repaired."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.dumps import Dump
from tests.support.history import connect, parse, read_history, serialize
from tests.support.pgstandby import PostgresStandby
from tests.support.pgstandby import history as postgres_history
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.standby import Standby

# A devpi-server creates a user who logs in by a plugin just so; see auth.py, `_autocreate_user`.
WITHOUT_PASSWORD = """
import sys
from devpi_server.config import get_pluginmanager, parseoptions
from devpi_server.main import xom_from_config
xom = xom_from_config(parseoptions(get_pluginmanager(), ["devpi-server", "--serverdir", sys.argv[1]]))
with xom.keyfs.write_transaction():
    for name in sys.argv[2:]:
        xom.model.create_user(name, password=None)
"""
PASSWORDLESS = ("ldap", "owner")  # who have none; `owner` has an index
OTHERS = ("root", "meant", "alice")  # who have one: the first two the empty one
REFUSED, ACCEPTED = 401, 200

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, secretfile: Path) -> Iterator[Server]:
    """A running primary with such users; change nothing in it."""
    server = Server(tmp_path_factory.mktemp("passwords") / "primary", secretfile=secretfile).init()
    create_users(server.serverdir, *PASSWORDLESS)
    with server:
        with Client(server.url) as client:
            client.login()
            client.create_user("meant", "")
            client.create_user("alice")
            client.create_index("owner/dev", acl_upload=["alice"])
            client.login("alice", "secret")
            client.upload_wheel("owner/dev", "thing", "1.0")
        yield server


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, server: Server, secretfile: Path) -> Standby:
    """A standby that began with an export; copy it."""
    standby = Standby(tmp_path_factory.mktemp("seeded") / "standby", server.url, secretfile)
    clone(server, standby)
    return standby


def create_users(serverdir: Path, *names: str) -> None:
    """Create users without a password."""
    command = [sys.executable, "-c", WITHOUT_PASSWORD, str(serverdir), *names]
    subprocess.run(command, check=True, capture_output=True)


def clone(server: Server, standby: Standby) -> None:
    """Seed a standby by an export, and check that it says how many users have no password."""
    said = standby.clone("--from-serverdir", server.serverdir, "--seed", "export", "--json")
    assert json.loads(said.stdout)["users_without_password"] == len(PASSWORDLESS)


def logins(server: Server, password: str = "") -> dict[str, int]:
    """Return what a server answers to each user who tries to log in."""
    with Client(server.url) as client:
        answers = {
            name: client.http.post("/+login", json={"user": name, "password": password})
            for name in client.users()
        }
    return {name: answer.status_code for name, answer in answers.items()}


def as_seeded_before(standby: Standby) -> None:
    """Give each user without a password what devpi-import gave them: the empty one, in all of its entries."""
    seed = standby.status()["seed"]["serial"]
    ours = history(standby)
    hashes = {f"{name}/.config": PasswordHasher().hash("") for name in PASSWORDLESS}
    for serial, data in ours.items():
        changes = parse(data)[0] if serial <= seed else {}
        for key, (name, back, value) in changes.items():
            if key in hashes:
                changes[key] = (name, back, {"pwhash": hashes[key], **value})
        if hashes.keys() & changes.keys():
            update = "UPDATE changelog SET data = :data WHERE serial = :serial"
            write(standby, update, data=serialize((changes, [])), serial=serial)
    # A version that seeded so kept no witnesses of entries.
    write(standby, "UPDATE replisync_timeline SET witnesses = NULL")


def history(standby: Standby) -> dict[int, bytes]:
    """Return its changelog."""
    if isinstance(standby, PostgresStandby):
        return postgres_history(standby.database).changelog
    return read_history(standby.serverdir).changelog


def write(standby: Standby, statement: str, **values: object) -> None:
    """Write to its database as somebody else."""
    if isinstance(standby, PostgresStandby):
        standby.database.query(statement, **values)
        return
    with closing(connect(standby.serverdir, write=True)) as database, database:
        database.execute(statement, values)


def values(changelog: dict[int, bytes]) -> dict[int, Any]:
    """Return what entries say, however they are encoded."""
    return {serial: parse(data) for serial, data in changelog.items()}


def notes(report: dict[str, Any]) -> dict[str, str]:
    """Return what a report notes of users."""
    return {note["subject"]: note["note"] for note in report["notes"] if note["kind"] == "empty-password"}


def documented(server: Server) -> list[str]:
    """Return the scripts of docs/security.md that find users with the empty password, for a server."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/security.md").read_text(), re.DOTALL)
    scripts = [block for block in blocks if "accepts the empty password" in block]
    assert len(scripts) == 2
    for stands, means in (
        ("https://devpi.example.com", server.url),
        ("/var/lib/devpi/.sqlite", f"{server.serverdir}/.sqlite"),
        ("python3", sys.executable),
    ):
        scripts = [script.replace(stands, means) for script in scripts]
    return scripts


def check_notes_of_what_is_meant(standby: Standby) -> None:
    """Check that nothing is found, and that users with the empty password are named all the same."""
    report = standby.verify("primary")
    assert report["findings"] == []
    assert {name: "as on the primary" in note for name, note in notes(report).items()} == {
        "root": True,
        "meant": True,
    }


def check_logins(server: Server, standby: Standby, secretfile: Path, storage: str | None = None) -> None:
    """Check that a promoted standby lets exactly those in that the primary does."""
    standby.promote("--accept-loss")
    with Server(standby.serverdir, secretfile=secretfile, storage=storage) as promoted:
        found = logins(promoted)
        assert found == logins(server)
        assert [found[name] for name in PASSWORDLESS] == [REFUSED, REFUSED]
        assert [found[name] for name in OTHERS] == [ACCEPTED, ACCEPTED, REFUSED]
        assert logins(promoted, "secret")["alice"] == ACCEPTED


def check_found_and_repaired(standby: Standby) -> None:
    """Check that what an older replisync left is named, and found and repaired beside the primary alone."""
    right = values(history(standby))
    as_seeded_before(standby)
    wrong = history(standby)
    assert values(wrong) != right
    report = json.loads(run_here("verify", *standby.own, "--level", "full", "--json").stdout)
    assert set(notes(report)) == {*PASSWORDLESS, "root", "meant"}
    assert "`--level primary` compares" in notes(report)["ldap"]
    # Without the primary nothing is guessed.
    run_here("verify", *standby.own, "--level", "full", "--repair")
    assert history(standby) == wrong
    report = standby.verify("primary", code=8)
    assert {(one["kind"], one["subject"]) for one in report["findings"]} == {
        ("password", name) for name in PASSWORDLESS
    }
    assert standby.verify("full", "--repair")["outcome"] == "repaired"
    assert values(history(standby)) == right
    check_notes_of_what_is_meant(standby)


def test_a_promoted_standby_refuses_users_who_have_no_password(
    server: Server, seeded: Standby, tmp_path: Path, secretfile: Path
) -> None:
    """It lets the same users in as the primary; a password that is meant to be empty stays, and is named."""
    standby = seeded.copy(tmp_path / "standby")
    check_notes_of_what_is_meant(standby)
    check_logins(server, standby, secretfile)


def test_the_empty_password_that_an_older_seed_gave_is_found_and_taken_away(
    server: Server, seeded: Standby, tmp_path: Path, secretfile: Path
) -> None:
    """Without that, anyone who knows the name of such a user can log in after a promotion."""
    standby = seeded.copy(tmp_path / "standby")
    check_found_and_repaired(standby)
    check_logins(server, standby, secretfile)
    untouched = seeded.copy(tmp_path / "untouched")
    as_seeded_before(untouched)
    untouched.promote("--accept-loss")
    with Server(untouched.serverdir, secretfile=secretfile) as promoted:
        assert [logins(promoted)[name] for name in PASSWORDLESS] == [ACCEPTED, ACCEPTED]
        # What the documentation gives to find them on such a server.
        serial = promoted.serial()
        lines = sorted(f"{name} accepts the empty password" for name in (*PASSWORDLESS, "root", "meant"))
        for script in documented(promoted):
            said = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
            assert sorted(said.stdout.splitlines()) == lines
        assert promoted.serial() == serial


def test_all_of_this_holds_in_postgresql(
    server: Server, tmp_path: Path, secretfile: Path, postgres: Postgres
) -> None:
    standby = PostgresStandby(tmp_path / "standby", server.url, secretfile, postgres.database())
    clone(server, standby)
    check_found_and_repaired(standby)
    check_logins(server, standby, secretfile, standby.database.spec)


@pytest.mark.parametrize(("given", "has_root"), [("secret", False), (None, True)])
def test_a_server_of_its_own_has_the_passwords_that_were_given_and_no_others(
    tmp_path: Path, secretfile: Path, given: str | None, has_root: bool
) -> None:
    """Of the dump, and of --root-passwd; devpi-import would give the empty one to all others."""
    dump = Dump(tmp_path / "dump")
    dump.user("ldap")
    dump.user("meant", pwhash=PasswordHasher().hash(""))
    if not has_root:
        del dump.users["root"]
    target = tmp_path / "copy"
    options = () if given is None else ("--root-passwd", given)
    said = run_here("clone", "--serverdir", target, "--from-export", dump.write(), *options, "--no-root-pypi")
    assert f"Users without a password, as in the dump: {1 if given else 2}." in said.stdout
    with Server(target, role="standalone", secretfile=secretfile) as server:
        assert logins(server) == {"root": REFUSED, "ldap": REFUSED, "meant": ACCEPTED}
        assert logins(server, "secret")["root"] == (ACCEPTED if given else REFUSED)


def test_what_an_older_replisync_imported_is_imported_again(
    server: Server, tmp_path: Path, secretfile: Path
) -> None:
    """It did not write down who has no password, and may have written the empty one already."""
    with Proxy(server.url) as proxy:
        standby = Standby(tmp_path / "standby", proxy.url, secretfile)
        source = ("--from-serverdir", server.serverdir, "--seed", "export")
        with proxy.fault(path=rf"/\+changelog/{server.serial()}", status=503):
            standby.clone(*source, "--patience", 1, code=3)
        done = standby.serverdir / ".replisync/seed/imported"
        words = json.loads(done.read_bytes())
        assert words[-1] == ["alice", "meant", "root"]
        done.write_text(json.dumps(words[:-1]))
        assert standby.serial == server.serial()
        said = standby.clone(*source)
        check_notes_of_what_is_meant(standby)
    assert "import" in {line["event"] for line in said.logs}
    assert "pwhash" not in read_history(standby.serverdir).latest()["ldap/.config"][2]
