"""Taking a target back: at each serial it is again what it was there, whatever fails on the way."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replisync.changelog.plan import WantedFile
from replisync.changelog.records import Commit, Divergence, Source
from replisync.errors import ConditionFailed, ForeignWriter, TargetUnusable
from replisync.primary.access import Access
from replisync.replication.context import Context
from replisync.rewind.rewind import Rewound, take_back
from replisync.rewind.undo import Undo, plan
from replisync.session.session import Session
from replisync.session.settings import Settings
from replisync.standby.database.store import Store
from tests.edges.conftest import Database, commit, entry
from tests.edges.conftest import file as file_value
from tests.edges.scenario import (
    HISTORY,
    NOMD5,
    ChainedPrimary,
    Op,
    PostgresParts,
    Target,
    drop,
    put,
)
from tests.edges.standbys import SOURCE
from tests.fakes import (
    FailingFiles,
    NoProgress,
    RecordingLog,
    RecordingStop,
    ScriptedPrimary,
    Trap,
)
from tests.support import postgres as support

OPS: tuple[Op, ...] = tuple(op for stage in HISTORY for op in stage)
LAST = len(OPS) - 1


class Standby(Target):
    """A target that can be taken back."""

    def forward(self, serial: int) -> None:
        """Have another process catch up."""
        with closing(Standby(self.serverdir.root, self.server, Trap(), entries=1)) as another:
            another.begin()
            another.catch_up(serial)

    def take_back(self, serial: int, *, asks: bool = False, accept_loss: bool = False) -> Rewound:
        """Take it back to a serial; the primary is asked for files where it may be."""
        session = Session(
            self.serverdir,
            self.store,
            self.store.source() or SOURCE,
            Settings(Access(threads=1)),
            Context(RecordingStop(), RecordingLog(), NoProgress()),
            given_files=FailingFiles(self.make_files(), self.trap),  # type: ignore[arg-type]
        )
        return take_back(session, self.primary if asks else None, serial, accept_loss=accept_loss)


def in_postgres(database: support.Database) -> type[Standby]:
    """Return a kind of target that has its data in a database."""

    class InPostgres(PostgresParts, Standby):
        spec = database.spec

    return InPostgres


def follow(root: Path, server: ScriptedPrimary, kind: type[Standby] = Standby) -> Standby:
    """Return a target that has nothing of a primary yet."""
    target = kind(root, server, Trap(), entries=1)
    target.begin()
    target.store.put_source(Source("http://p/", "primary", "ours", "sqlite", "changelog", "now"))
    return target


def followed(root: Path, kind: type[Standby] = Standby) -> ChainedPrimary:
    """Have a target follow a primary entry by entry, so that everything is retained; return the primary."""
    server = ChainedPrimary()
    with closing(follow(root, server, kind)) as target:
        for op in OPS:
            op(server)
            target.catch_up(server.serial)
    return server


QUERIES = {
    "changelog": "SELECT serial, data FROM changelog",
    "kv": "SELECT key, keyname, serial FROM kv",
    "files": "SELECT relpath, serial, digest, state, size, reason FROM replisync_files",
    "faults": "SELECT relpath, serial, kind, reason FROM replisync_faults",
    "pending": "SELECT relpath FROM replisync_pending",
    "timeline": "SELECT serial FROM replisync_timeline",
}


def state(root: Path) -> dict[str, object]:
    """Return what a devpi-server, and a follower, would find; not what is retained."""
    found: dict[str, object] = {
        "on disk": {
            path.relative_to(root).as_posix(): path.read_bytes()
            for folder in ("+files", ".replisync/tmp")
            for path in (root / folder).rglob("*")
            if path.is_file()
        }
    }
    with closing(sqlite3.connect(f"file:{root / '.sqlite'}?mode=ro", uri=True)) as database:
        for name, query in QUERIES.items():
            found[name] = sorted(database.execute(query).fetchall())
    return found


def retained(root: Path) -> tuple[list[bytes], list[tuple[str, int]]]:
    """Return the contents that are retained, and their rows; each file has a row, and each row a file."""
    folder = root / ".replisync" / "retained"
    with closing(sqlite3.connect(f"file:{root / '.sqlite'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT stored_as, relpath, serial FROM replisync_retained").fetchall()
    assert sorted(row[0] for row in rows) == sorted(path.name for path in folder.iterdir())
    contents = sorted((folder / name).read_bytes() for name, _, _ in rows)
    return contents, sorted((relpath, serial) for _, relpath, serial in rows)


@pytest.fixture
def server() -> ChainedPrimary:
    """A primary with nothing in it yet."""
    return ChainedPrimary()


@pytest.fixture
def history(folder: Path, server: ChainedPrimary) -> Iterator[tuple[Standby, list[dict[str, object]]]]:
    """A target at the end of the history, and its state at each serial."""
    states = []
    with closing(follow(folder / "target", server)) as target:
        for serial, op in enumerate(OPS):
            op(server)
            target.catch_up(serial)
            states.append(state(folder / "target"))
        yield target, states


@pytest.mark.parametrize("serial", range(LAST + 1))
def test_a_target_is_again_what_it_was_and_goes_on_from_there(
    history: tuple[Standby, list[dict[str, object]]], folder: Path, serial: int
) -> None:
    """Without asking the primary for anything, since all that was dropped is retained."""
    target, states = history
    asked = len(target.server.requests)
    done = target.take_back(serial)
    assert (done.from_serial, done.to_serial, done.missing) == (LAST, serial, 0)
    assert state(folder / "target") == states[serial]
    assert len(target.server.requests) == asked
    _, rows = retained(folder / "target")
    assert all(at <= serial for _, at in rows), "what a serial put aside that is no more has no serial"
    target.forward(LAST)
    for part in ("changelog", "kv", "pending"):
        assert state(folder / "target")[part] == states[LAST][part], part


def test_step_by_step_or_at_once_is_the_same(
    history: tuple[Standby, list[dict[str, object]]], folder: Path
) -> None:
    """Back and forth as often as one likes; nothing that was put aside is lost or mixed up."""
    target, states = history
    for serial in range(LAST - 1, 0, -1):
        before, _ = retained(folder / "target")
        target.take_back(serial)
        assert state(folder / "target") == states[serial]
        after, _ = retained(folder / "target")
        assert not [content for content in before if content not in after]
    target.take_back(1)
    assert state(folder / "target") == states[1]


def test_another_history_from_there_on(
    history: tuple[Standby, list[dict[str, object]]], folder: Path, server: ChainedPrimary
) -> None:
    """The serials come again, with the same files and other contents; both contents stay retained."""
    target, states = history
    target.take_back(4)
    other = ChainedPrimary()
    for op in OPS[:5]:
        op(other)
    server.entries, server.files = other.entries, other.files
    for op in (
        put(n=(NOMD5, b"another way", False)),
        drop(NOMD5),
        put(n=(NOMD5, b"yet another", False)),
    ):
        op(other)
        target.forward(other.serial)
    assert (folder / "target" / "+files" / NOMD5).read_bytes() == b"yet another"
    contents, _ = retained(folder / "target")
    assert {b"mirrored", b"another way", b"mirrored again"} <= set(contents)
    target.take_back(5)
    assert (folder / "target" / "+files" / NOMD5).read_bytes() == b"another way"
    target.take_back(4)
    assert state(folder / "target") == states[4]


class TestMissingFiles:
    """A serial is not there without its files, unless somebody says so."""

    A, B = "u/dev/+f/aaa/a/a-1.0.zip", "u/dev/+f/bbb/b/b é-1.0.zip"

    @pytest.fixture
    def target(
        self, history: tuple[Standby, list[dict[str, object]]], folder: Path
    ) -> tuple[Standby, list[dict[str, object]]]:
        """A target that retains nothing any more; TOX of serial 3 is needed at serial 9."""
        target, states = history
        names = [row.stored_as for row in target.store.retained_of([self.A, self.B, NOMD5, TOX])]
        for name in names:
            (folder / "target" / ".replisync" / "retained" / name).unlink()
        return target, states

    def test_it_stays_where_it_is(
        self, target: tuple[Standby, list[dict[str, object]]], folder: Path
    ) -> None:
        standby, states = target
        with pytest.raises(ConditionFailed, match=r"it needs .*toxresult-1.json, which is missing") as caught:
            standby.take_back(8)
        assert "no secret was given" in str(caught.value)
        assert "--replica-keyfile" in caught.value.hint
        assert caught.value.details["missing_files"] == [TOX]
        assert state(folder / "target") == states[LAST]

    def test_the_primary_may_be_asked(
        self, target: tuple[Standby, list[dict[str, object]]], folder: Path, server: ChainedPrimary
    ) -> None:
        standby, states = target
        server.files[TOX] = b"second" * 500
        done = standby.take_back(9, asks=True)
        assert (done.restored, done.fetched, done.missing) == (0, 1, 0)
        assert state(folder / "target") == states[9]

    @pytest.mark.parametrize("answer", [404, 503, b"something else"])
    def test_a_primary_that_does_not_have_them_either(
        self,
        target: tuple[Standby, list[dict[str, object]]],
        folder: Path,
        server: ChainedPrimary,
        answer: int | bytes,
    ) -> None:
        standby, states = target
        server.files[TOX] = answer
        with pytest.raises(ConditionFailed, match="toxresult") as caught:
            standby.take_back(9, asks=True)
        assert "--replica-keyfile" not in caught.value.hint, "it was asked already"
        assert state(folder / "target") == states[LAST]

    def test_the_operator_may_go_back_without(
        self, target: tuple[Standby, list[dict[str, object]]], folder: Path, server: ChainedPrimary
    ) -> None:
        standby, states = target
        done = standby.take_back(9, accept_loss=True)
        assert done.missing == 1
        assert [(f.relpath, f.kind) for f in standby.store.faults() if f.kind == "skipped"] == [
            (TOX, "skipped")
        ]
        assert state(folder / "target")["kv"] == states[9]["kv"]
        server.files[TOX] = b"second" * 500
        standby.pipeline.wanted.retry()
        assert state(folder / "target") == states[9]

    def test_a_retained_file_that_is_damaged_is_as_good_as_none(
        self, history: tuple[Standby, list[dict[str, object]]], folder: Path
    ) -> None:
        standby, states = history
        for path in (folder / "target" / ".replisync" / "retained").iterdir():
            path.write_bytes(b"rotten")
        with pytest.raises(ConditionFailed, match="toxresult"):
            standby.take_back(9)
        assert state(folder / "target") == states[LAST]


TOX = "u/dev/+f/bbb/b/b-1.0.zip.toxresult-1.json"


# The stores.

FILE = ("STAGEFILE", -1, file_value())


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with keys that come, change, go and come again."""
    for one in (
        entry(0, {"u/.config": ("USER", -1, {"n": 0}), "f": FILE}),
        entry(1, {"u/.config": ("USER", 0, {"n": 1}), "g": FILE}),
        entry(2, {"u/.config": ("USER", 1, None), "x": ("PLUGIN", -1, 1)}),
        entry(3),
        entry(4, {"u/.config": ("USER", 2, {"n": 4}), "f": ("STAGEFILE", 0, None)}),
    ):
        store.apply(commit(one), 4, f"time {one.serial}")
    return store


def undo(store: Store, serial: int) -> Commit:
    """Return the commit that takes a store back."""
    undo = plan(store, serial)
    return Commit(undo, present=dict.fromkeys(undo.wanted, 7))


KEYS = "SELECT key, keyname, serial FROM kv ORDER BY key"


@pytest.mark.parametrize(
    ("serial", "keys"),
    [
        (3, [("f", 0), ("g", 1), ("u/.config", 2), ("x", 2)]),
        (1, [("f", 0), ("g", 1), ("u/.config", 1)]),
        (0, [("f", 0), ("u/.config", 0)]),
    ],
)
def test_keys_get_the_serials_that_they_had(
    filled: Store, database: Database, serial: int, keys: list[tuple[str, int]]
) -> None:
    filled.rewind(undo(filled, serial), serial)
    assert [(row[0], row[2]) for row in database.read(KEYS)] == keys
    assert filled.last_serial() == serial
    filled.own_serial()
    assert database.read("SELECT max(serial) FROM changelog") == [(serial,)]
    assert database.read("SELECT max(serial), max(committed_at) FROM replisync_timeline") == [
        (serial, f"time {serial}")
    ]
    filled.apply(commit(entry(serial + 1, {"y": ("PLUGIN", -1, 1)})), 9, "later")
    assert filled.last_serial() == serial + 1


def test_the_ledger_has_the_files_of_then(filled: Store, database: Database) -> None:
    filled.rewind(undo(filled, 0), 0)
    assert database.read("SELECT relpath, serial, state, size FROM replisync_files") == [
        ("f", 0, "present", 7)
    ]


def test_a_divergence_is_over_where_the_histories_agree(filled: Store) -> None:
    """Not before: one serial later they still differ."""
    filled.put_divergence(Divergence("now", 4, 2, "another entry"))
    filled.rewind(undo(filled, 3), 3)
    assert filled.divergence() is not None
    filled.rewind(undo(filled, 2), 2)
    assert filled.divergence() is None


def test_devpis_sequence_follows(postgres_store: tuple[Store, Database]) -> None:
    """A stock devpi-server that starts on it writes the serial after the last one."""
    store, database = postgres_store
    for serial in range(5):
        store.apply(commit(entry(serial)), 4, "now")
    store.rewind(undo(store, 2), 2)
    assert database.read("SELECT last_value, is_called FROM changelog_serial_seq") == [(2, True)]


@pytest.fixture
def postgres_store(request: pytest.FixtureRequest) -> Iterator[tuple[Store, Database]]:
    """A store in PostgreSQL."""
    from tests.edges.conftest import PostgresDatabase

    database = PostgresDatabase(request.getfixturevalue("postgres").schema())
    with database.open() as store:
        yield store, database


class TestDamage:
    """A history of ours that does not tell what was before is not taken back, and not changed."""

    @pytest.mark.parametrize("kind", ["USER", "PLUGIN"])
    @pytest.mark.parametrize(
        ("back_serial", "serial"), [(3, 4), (3, 3), (4, 3)], ids=["before", "at", "behind the serial"]
    )
    def test_wrong_back_serials(
        self, filled: Store, database: Database, kind: str, back_serial: int, serial: int
    ) -> None:
        """The entry that they name does not have the key."""
        filled.apply(commit(entry(5, {"z/.config": (kind, back_serial, {"n": 4})})), 5, "now")
        before = database.read(KEYS)
        with pytest.raises(TargetUnusable, match="back serial"):
            filled.rewind(undo(filled, serial), serial)
        assert database.read(KEYS) == before
        assert filled.last_serial() == 5

    def test_an_entry_that_cannot_be_read(self, filled: Store, database: Database) -> None:
        database.write("UPDATE changelog SET data = ? WHERE serial = 2", b"rubbish")
        with pytest.raises(TargetUnusable, match="at serial 2"):
            plan(filled, 1)

    def test_somebody_who_wrote_meanwhile(self, filled: Store) -> None:
        prepared = undo(filled, 1)
        filled.apply(commit(entry(5)), 5, "now")
        with pytest.raises(ForeignWriter):
            filled.rewind(prepared, 1)
        assert filled.last_serial() == 5


def test_what_is_put_aside_gets_no_serial_that_was_ever_committed() -> None:
    undo = Undo(3, 8)
    undo.wanted["f"] = WantedFile("f", 2, None)
    assert undo.changed_file("f") == 8
