"""Passwords that an import gave, beside those of a primary: many of them, far back, and behind damage."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from replisync.devpi.tokens import is_empty_password
from replisync.verify.findings import EMPTY_PASSWORD, PASSWORD, UNTRIED_PASSWORDS, Report
from replisync.verify.run import Level
from tests.edges.conftest import SqliteDatabase
from tests.edges.scenario import ChainedPrimary
from tests.edges.standbys import Standby
from tests.edges.verify.damages import edited

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
EMPTY, OTHER = CHEAP.hash(""), CHEAP.hash("secret")


def commit(server: ChainedPrimary, users: dict[str, str | None]) -> int:
    """Commit users with these hashes; None for one without."""
    values = {name: {} if pwhash is None else {"pwhash": pwhash} for name, pwhash in users.items()}
    return server.commit({f"{name}/.config": ("USER", -1, value) for name, value in values.items()})


def made(root: Path, server: ChainedPrimary) -> Standby:
    """Return a standby of a primary."""
    standby = Standby(root, SqliteDatabase(root / ".sqlite"), server)
    standby.make()
    return standby


def exported(standby: Standby, imported: dict[str, str], *, since: int = 0) -> Standby:
    """Let the entries of a standby come from an export, with these hashes in each entry of a user.

    since: how many entries at the end are the primary's own.
    """
    server = standby.server
    standby.follow(entries=10_000)
    last = server.serial
    for serial in range(last + 1 - since):
        if b"/.config" in server.entries[serial]:
            edited(standby, serial, lambda changes: give(changes, imported))
    database = standby.database
    database.write("UPDATE replisync_source SET seed_kind = 'export', seed_serial = ?", last - since)
    database.write("INSERT INTO replisync_tip (serial, data) VALUES (?, ?)", last, server.entries[last])
    standby.prove()
    return standby


def give(changes: dict[str, list[Any]], hashes: dict[str, str]) -> None:
    """Give users these hashes."""
    for key, change in changes.items():
        pwhash = hashes.get(key.partition("/")[0])
        if pwhash is not None and key.endswith("/.config"):
            change[2] = {**change[2], "pwhash": pwhash}


def found(report: Report) -> set[str]:
    """Return of whom the password is a finding; nothing else is."""
    assert {one.kind for one in report.findings} <= {PASSWORD}
    return {one.subject for one in report.findings}


def noted(report: Report, kind: str = EMPTY_PASSWORD) -> dict[str, str]:
    """Return what is noted."""
    return {one.subject: one.note for one in report.notes if one.kind == kind}


def hashes(standby: Standby, names: Iterable[str]) -> set[Any]:
    """Return the hashes that a standby has for users, in any entry."""
    kept: set[Any] = set()

    def look(changes: dict[str, list[Any]]) -> None:
        kept.update(
            changes[f"{name}/.config"][2].get("pwhash") for name in names if f"{name}/.config" in changes
        )

    for [serial] in standby.database.read("SELECT serial FROM changelog"):
        edited(standby, serial, look)
    return kept


def test_more_users_than_are_tried_are_all_found_and_repaired_beside_the_primary(tmp_path: Path) -> None:
    """Without the primary a note says how many were not tried; a password that is the primary's stays."""
    names = [f"ldap{number:03}" for number in range(110)]
    server = ChainedPrimary()
    commit(server, {**dict.fromkeys(names, None), "z": OTHER})
    # One of them changed once more before the export: two entries have the hash.
    commit(server, {names[0]: None})
    standby = exported(made(tmp_path / "standby", server), dict.fromkeys(names, EMPTY))
    report = standby.look()
    assert (found(report), report.outcome) == (set(), "ok")
    assert len(noted(report)) == 50
    assert set(noted(report, UNTRIED_PASSWORDS)) == {"61 users"}
    report = standby.look(Level.PRIMARY)
    assert found(report) == set(names)
    assert report.notes == []
    assert standby.repair().outcome == "repaired"
    assert hashes(standby, names) == {None}
    assert hashes(standby, ["z"]) == {OTHER}
    report = standby.look(Level.PRIMARY)
    assert (found(report), report.notes) == (set(), [])


def test_a_user_is_found_however_far_back_the_primary_has_it(tmp_path: Path) -> None:
    """The primary is read backwards, and not further than it takes."""
    server = ChainedPrimary()
    commit(server, {"far": None, "far-meant": EMPTY})
    standby = made(tmp_path / "standby", server)
    for _ in range(3200):
        server.commit({})
    commit(server, {"near": None, "far-meant": EMPTY})
    exported(standby, {"far": EMPTY, "near": EMPTY})
    report = standby.look(Level.PRIMARY)
    assert found(report) == {"far", "near"}
    assert list(noted(report)) == ["far-meant"]
    assert standby.repair(Level.PRIMARY).outcome == "repaired"
    server.requests.clear()
    assert found(standby.look(Level.PRIMARY)) == set()
    streams = [request.url.path for request in server.requests if request.url.path.endswith("-")]
    assert len(streams) == 1


def test_a_user_who_has_another_password_on_the_primary_gets_that_one(tmp_path: Path) -> None:
    """As where the dump was older than its serial."""
    server = ChainedPrimary()
    commit(server, {"late": OTHER})
    standby = exported(made(tmp_path / "standby", server), {"late": EMPTY})
    assert found(standby.look(Level.PRIMARY)) == {"late"}
    assert standby.repair(Level.PRIMARY).outcome == "repaired"
    assert hashes(standby, ["late"]) == {OTHER}


@pytest.mark.parametrize("damaged", [[2], [2, 3, 4]])
def test_what_a_damaged_entry_of_the_primary_hides_is_not_guessed(tmp_path: Path, damaged: list[int]) -> None:
    """A later value of the user may be in it; users behind it are judged."""
    server = ChainedPrimary()
    commit(server, {"before": None})
    for _ in range(5):
        server.commit({})
    commit(server, {"behind": None})
    standby = exported(made(tmp_path / "standby", server), {"before": EMPTY, "behind": EMPTY})
    for serial in damaged:
        server.entries[serial] = b"\xde\xad"
    report = standby.look(Level.PRIMARY)
    assert found(report) == {"behind"}
    assert list(noted(report)) == ["before"]
    assert f"entry at serial {damaged[-1]} cannot be read" in noted(report)["before"]
    standby.repair(Level.PRIMARY)
    assert hashes(standby, ["behind"]) == {None}
    assert EMPTY in hashes(standby, ["before"])


def test_a_user_who_changed_since_the_export_is_as_on_the_primary(tmp_path: Path) -> None:
    """Whole values come with each change, so nothing is left to be named."""
    server = ChainedPrimary()
    commit(server, {"changed": None, "same": None})
    standby = made(tmp_path / "standby", server)
    commit(server, {"changed": EMPTY})
    exported(standby, {"changed": CHEAP.hash(""), "same": EMPTY}, since=1)
    report = standby.look(Level.PRIMARY)
    assert (found(report), report.notes) == ({"same"}, [])
    assert standby.repair(Level.PRIMARY).outcome == "repaired"
    assert EMPTY in hashes(standby, ["changed"])


def test_a_standby_that_began_otherwise_is_as_its_primary(tmp_path: Path) -> None:
    """What its users have is the primary's own, and no matter of a verification."""
    server = ChainedPrimary()
    commit(server, {"root": EMPTY})
    report = made(tmp_path / "standby", server).look(Level.PRIMARY)
    assert (report.findings, report.notes) == ([], [])


@pytest.mark.parametrize(
    ("pwhash", "empty"),
    [
        (EMPTY, True),
        (OTHER, False),
        (PasswordHasher().hash(""), True),
        ("", False),
        ("0" * 64, False),
        ("$argon2id$v=19$m=8,t=1,p=1$!$\ud800", False),
        # Memory and time that a hostile hash would cost.
        (EMPTY.replace("m=8", "m=4194304"), False),
        (EMPTY.replace("t=1", "t=100000"), False),
        (EMPTY.replace("p=1", "p=10000"), False),
    ],
    ids=["empty", "other", "of argon2", "none", "no hash", "no salt", "memory", "passes", "lanes"],
)
def test_a_hash_is_tried_at_a_cost_that_is_bounded(pwhash: str, empty: bool) -> None:
    assert is_empty_password(pwhash) is empty
