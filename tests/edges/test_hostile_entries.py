"""Whatever an entry holds: it is stored exactly, what can be no file is left out, and the next one comes."""

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replisync.errors import FilesMissing
from replisync.standby.database import audit
from replisync.verify.run import Level
from tests.edges.conftest import Database, PostgresDatabase, SqliteDatabase
from tests.edges.scenario import ChainedPrimary, Target, put, users, value
from tests.edges.standbys import Standby
from tests.fakes import Body, Trap, answers
from tests.support.history import strip_renames
from tests.support.postgres import Postgres

LAST = "u/dev/+f/fff/f/last-1.0.zip"
LONG = "".join(chr(0x4E00 + 7 * number % 20_000) for number in range(1200))

PARTS = st.sampled_from(
    [
        *("", ".", "..", "...", "u", "dev", "pypi", "+f", "+e", "abc", "x.zip", "é", "e\u0301", ".config"),
        *("\0", "a\0b", "#", "%2e", "\\", "\n\x1b[31m", "\u202e", ".replisync", "lock", "x-tmp", "'\"{},"),
        *("y" * 255, "y" * 256, "é" * 128, LONG, "\U0001f4e6\uffff"),
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
RELPATHS = st.lists(PARTS, max_size=4).map("/".join) | st.builds(
    lambda index, name: f"{index}/+f/abc/{name}",
    st.sampled_from(["u/dev", "u/pypi", "u/no", "../dev"]),
    PARTS,
)

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**70)
    | st.floats(allow_nan=False)
    | st.binary(max_size=4)
    | PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=6,
)
SPECS = st.sampled_from(
    [
        "",
        "=",
        "sha256=",
        "sha256=abc",
        "md5=" + "0" * 32,
        "sha256=../../x",
        "sha256=\0",
        "shake_128=ab",
        "x=y=z",
    ]
)
FILES = st.fixed_dictionaries(
    {"last_modified": st.sampled_from(["Sun, 22 Nov 2026 11:39:23 GMT", None, "", 1, [0]]) | ODD},
    optional={"hash_spec": SPECS | ODD, "hashes": st.dictionaries(PARTS, ODD, max_size=2) | ODD, "size": ODD},
)
USERS = st.fixed_dictionaries(
    {"indexes": ODD | st.dictionaries(PARTS, ODD | st.fixed_dictionaries({"type": ODD}), max_size=3)}
)
VALUES = {"STAGEFILE": FILES, "PYPIFILE_NOMD5": FILES, "USER": USERS, "PROJVERSION": ODD, "PLUGIN\u2603": ODD}
CHANGES = st.one_of(
    [st.tuples(st.just(name), st.just(-1), st.none() | ODD | values) for name, values in VALUES.items()]
)
HISTORIES = st.lists(st.dictionaries(RELPATHS, CHANGES, max_size=4), min_size=1, max_size=6)
ANSWERS = st.sampled_from([b"content", b"", 302, 403, 404, 410, 429, 500, 503])


def catch_up(target: Target, tries: int) -> None:
    """Catch up, as an operator does who skips each file that holds a serial back."""
    for _ in range(tries):
        try:
            target.catch_up(target.server.serial)
        except FilesMissing:
            held = [fault for fault in target.store.faults() if fault.kind == "held"]
            assert held
            target.store.put_faults(tuple(replace(fault, kind="skipped", tries=0) for fault in held))
        else:
            return
    raise AssertionError("it makes no progress")


def check(root: Path, database: Database, history: list[dict[str, Any]], answer: bytes | int) -> None:
    """Follow a history, and check what is made of it."""
    server = ChainedPrimary()
    standby = Standby(root, database, server)
    standby.make()
    before = {path.name for path in root.parent.iterdir()}
    for changes in history:
        server.files |= dict.fromkeys(changes, answer)
        server.commit(changes)
    server.commit(users("dev", "pypi"))
    put(last=(LAST, b"last", True))(server)
    with closing(standby.target(Trap(), entries=3)) as target:
        target.begin()
        catch_up(target, 4 + 2 * len(history))
        assert all(fault.reason.isprintable() for fault in target.store.faults())
        holds = target.store.holds_key
        stored = dict(audit.entries(target.store, 0, server.serial, 100))
        assert stored == {serial: strip_renames(data) for serial, data in enumerate(server.entries)}
        expected = {key: serial for key, serial in server.latest.items() if holds(key)}
        assert target.store.serials_of(expected) == expected
        assert target.store.missing_private_files() <= target.store.fault_count()
    assert standby.read_file(LAST) == b"last"
    for level in (Level.FULL, Level.PRIMARY):
        assert standby.look(level).findings == []
    assert {path.name for path in root.parent.iterdir()} == before


EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@EXAMPLES
@given(history=HISTORIES, answer=ANSWERS)
def test_in_sqlite(history: list[dict[str, Any]], answer: bytes | int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "below", "standby")
        check(root, SqliteDatabase(root / ".sqlite"), history, answer)


@pytest.mark.parametrize("index", ["dev", "pypi"])
def test_a_file_that_postgresql_cannot_hold(postgres: Postgres, tmp_path: Path, index: str) -> None:
    """It is known by its length, and not downloaded: a fault, for which a private serial waits."""
    relpath = f"u/{index}/+f/abc/d/huge-1.0.zip"
    server = ChainedPrimary()
    standby = Standby(tmp_path / "standby", PostgresDatabase(postgres.schema()), server)
    standby.make()
    server.commit(users("dev", "pypi"))
    bodies: list[Body] = []

    def huge() -> httpx.Response:
        bodies.append(Body(b"x", AssertionError("it is downloaded")))
        return httpx.Response(200, headers=answers(content_length=str(2**30)), stream=bodies[-1])

    server.files[relpath] = huge
    server.commit({relpath: ("STAGEFILE", -1, value(b"huge"))})
    put(last=(LAST, b"last", True))(server)
    with closing(standby.target(Trap(), entries=3)) as target:
        target.begin()
        if index == "dev":
            with pytest.raises(FilesMissing, match="PostgreSQL holds no file of 1073741824 bytes"):
                target.catch_up(server.serial)
        catch_up(target, 2)
        [fault] = [fault for fault in target.store.faults() if fault.relpath == relpath]
        assert fault.kind == ("skipped" if index == "dev" else "mirror")
        assert "PostgreSQL holds no file" in fault.reason
    assert [body.sent for body in bodies] == [0] * len(bodies)
    assert standby.read_file(LAST) == b"last"
