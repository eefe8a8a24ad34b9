"""What SQLite itself must do for us: devpi's own schema, readers that never wait, one file at the end."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replisync.errors import LocalFailure, TargetUnusable
from replisync.standby.database.sqlite import SqliteStore
from tests.edges.conftest import commit, entry, file
from tests.support.devpi import Server
from tests.support.history import connect

NOW = "2026-11-22T11:39:23.000Z"
MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database will be."""
    return tmp_path / ".sqlite"


def opened(path: Path, *, busy_seconds: float = 0.2) -> SqliteStore:
    """Return a store that writes and is ready."""
    store = SqliteStore(path, write=True, create=True, busy_seconds=busy_seconds)
    store.prepare()
    return store


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    with opened(path) as store:
        yield store


def schema(database: sqlite3.Connection) -> set[tuple[str, str, str, str]]:
    """Return devpi's part of a schema, with blanks made alike."""
    rows = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {
        (kind, name, table, " ".join(sql.split()))
        for kind, name, table, sql in rows
        if not name.startswith(("replisync_", "sqlite_")) and not table.startswith("replisync_")
    }


class TestDevpisOwn:
    """devpi-server finds exactly what it makes itself."""

    def test_the_schema_is_the_one_that_devpi_makes(self, tmp_path: Path, path: Path) -> None:
        Server(tmp_path / "stock").init()
        opened(path).close()
        with closing(connect(tmp_path / "stock")) as stock, closing(sqlite3.connect(path)) as ours:
            assert schema(ours) == schema(stock)
            assert len(schema(stock)) == 3
            for question in ("table_info(changelog)", "table_info(kv)", "index_list(kv)"):
                answer = stock.execute(f"PRAGMA {question}").fetchall()
                assert ours.execute(f"PRAGMA {question}").fetchall() == answer != []

    def test_what_devpi_made_already_is_left_as_it_is(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE changelog (serial INTEGER PRIMARY KEY, data BLOB NOT NULL)")
            database.execute("INSERT INTO changelog VALUES (0, x'00')")
        with opened(path) as store:
            assert store.last_serial() == 0
            assert store.entry_data(0) == b"\0"

    def test_in_the_end_everything_is_in_one_file_with_the_default_journal(self, path: Path) -> None:
        with opened(path) as store:
            store.apply(commit(entry(0, size=MIB)), 0, NOW)
            assert path.with_name(".sqlite-wal").exists()
            store.back_to_devpi()
        assert [entry.name for entry in path.parent.iterdir()] == [".sqlite"]
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT count(*) FROM changelog").fetchone() == (1,)

    def test_where_a_reader_has_it_open_nothing_is_lost_and_nobody_is_harmed(self, path: Path) -> None:
        with closing(reader(path, opened(path))) as other:
            with opened(path) as store:
                store.apply(commit(entry(0)), 0, NOW)
                other.execute("BEGIN")
                assert other.execute("SELECT count(*) FROM changelog").fetchone() == (1,)
                store.apply(commit(entry(1)), 1, NOW)
                store.back_to_devpi()
            assert other.execute("SELECT count(*) FROM changelog").fetchone() == (1,)
            other.execute("ROLLBACK")
            assert other.execute("SELECT count(*) FROM changelog").fetchone() == (2,)


def reader(path: Path, store: SqliteStore) -> sqlite3.Connection:
    """Return a connection as devpi-server opens one for reading, after closing a store."""
    store.close()
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0, isolation_level=None)


class TestReaders:
    """Readers of a hot standby neither wait nor see half a commit."""

    def test_a_reader_that_does_not_wait_at_all_gets_its_answer_during_a_commit(self, path: Path) -> None:
        answers: list[tuple[int]] = []

        def look() -> None:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)) as other:
                answers.append(other.execute("SELECT count(*) FROM changelog").fetchone())

        class Watched(SqliteStore):
            """Lets somebody look when all is written and nothing is committed."""

            def _update_ledger(self, *arguments: object) -> bool:
                moved = super()._update_ledger(*arguments)  # type: ignore[arg-type]
                look()
                return moved

        with Watched(path, write=True, create=True) as store:
            store.prepare()
            # More than the page cache holds: with the default journal this would lock readers out.
            store.apply(commit(*(entry(serial, size=MIB) for serial in range(24))), 23, NOW)
            look()
        assert answers == [(0,), (24,)]

    def test_a_reader_in_a_long_transaction_keeps_its_view_and_does_not_hold_us_up(
        self, path: Path, store: SqliteStore
    ) -> None:
        store.apply(commit(entry(0)), 0, NOW)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT max(serial) FROM changelog").fetchone() == (0,)
            store.apply(commit(entry(1, size=MIB)), 1, NOW)
            assert other.execute("SELECT max(serial) FROM changelog").fetchone() == (0,)

    def test_the_journal_does_not_grow_with_history(self, path: Path, store: SqliteStore) -> None:
        sizes = []
        for serial in range(24):
            store.apply(commit(entry(serial, size=MIB)), 23, NOW)
            sizes.append(path.with_name(".sqlite-wal").stat().st_size)
        assert max(sizes) < 8 * MIB

    def test_commits_are_durable_when_they_return(self, store: SqliteStore) -> None:
        with store._reading() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


class TestReadOnly:
    """A store that only reads changes nothing, not even the journal's mode."""

    def test_reading_leaves_the_file_as_it_was(self, path: Path) -> None:
        with opened(path) as store:
            store.apply(commit(entry(0, {"a": ("STAGEFILE", -1, file())})), 0, NOW)
            store.back_to_devpi()
        before = path.read_bytes()
        with SqliteStore(path) as store:
            assert store.last_serial() == 0
            assert store.file_counts().total == 1
            with pytest.raises(LocalFailure, match="readonly"):
                store.apply(commit(entry(1)), 1, NOW)
        assert path.read_bytes() == before
        assert [entry.name for entry in path.parent.iterdir()] == [".sqlite"]

    def test_a_database_that_is_not_there_is_not_made(self, path: Path) -> None:
        for write in (False, True):
            with SqliteStore(path, write=write) as store, pytest.raises(LocalFailure) as caught:
                store.last_serial()
            assert "check that the serverdir is there" in caught.value.hint
        assert not path.exists()


class TestTranslations:
    """What SQLite says becomes one of our errors, with what to do."""

    @pytest.mark.parametrize(
        "content",
        [b"this is no database at all, whatever its name says" * 100, b"SQLite format 3\0" + b"\xff" * 4096],
    )
    def test_what_is_no_database_is_an_unusable_target(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        for write in (False, True):
            with SqliteStore(path, write=write) as store, pytest.raises(TargetUnusable) as caught:
                store.last_serial()
            assert "clone into an empty serverdir" in caught.value.hint
        assert path.read_bytes() == content

    def test_a_damaged_database_is_an_unusable_target(self, path: Path) -> None:
        with opened(path) as store:
            store.apply(commit(*(entry(serial, size=5000) for serial in range(50))), 49, NOW)
            store.back_to_devpi()
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
        with SqliteStore(path) as store, pytest.raises(TargetUnusable, match="malformed"):
            store.entry_data(30)

    def test_a_lock_of_somebody_else_is_waited_for_and_then_named(self, path: Path) -> None:
        with (
            opened(path, busy_seconds=0.1) as store,
            closing(sqlite3.connect(path, isolation_level=None)) as other,
        ):
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LocalFailure, match="locked") as caught:
                store.apply(commit(entry(0)), 0, NOW)
            assert "another process holds the database" in caught.value.hint
            assert caught.value.transient
            other.execute("ROLLBACK")
            store.apply(commit(entry(0)), 0, NOW)

    def test_a_lock_that_ends_in_time_is_no_failure(self, path: Path) -> None:
        with opened(path, busy_seconds=30) as store:
            other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            other.execute("BEGIN IMMEDIATE")
            started = threading.Event()

            def let_go() -> None:
                started.wait()
                other.execute("ROLLBACK")
                other.close()

            helper = threading.Thread(target=let_go)
            helper.start()
            started.set()
            store.apply(commit(entry(0)), 0, NOW)
            helper.join()
            assert store.last_serial() == 0

    @pytest.mark.parametrize("name", ["a b", "100%", "q?x=1", "h#x", "é-日本", "%20"])
    def test_a_folder_of_any_name_will_do(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        with opened(folder / ".sqlite") as store:
            store.apply(commit(entry(0)), 0, NOW)
        with SqliteStore(folder / ".sqlite") as store:
            assert store.last_serial() == 0
        assert (folder / ".sqlite").exists()
