"""Our tables are made and changed by migrations, and are the ones that the code declares."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from replisync.changelog.records import LEVELS
from replisync.errors import ReplisyncError, TargetLocked, TargetUnusable
from replisync.operations.faults import clear_faults
from replisync.standby.database import schema
from replisync.standby.database.sqlite import SqliteStore
from replisync.standby.database.store import Store
from replisync.standby.database.tables import metadata
from replisync.standby.serverdir import Serverdir
from replisync.verify.standing import standing
from tests.edges.conftest import Database, commit, entry

SCRIPTS = ScriptDirectory(str(schema.migrations_folder()))
# From the first form to the newest.
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    """Write to a database file in one transaction."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def ours(connection: Connection) -> set[str]:
    """Return the names of our tables."""
    return {name for name in inspect(connection).get_table_names() if name.startswith("replisync_")}


def configured(connection: Connection) -> Config:
    """Return what Alembic's commands need."""
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    config.attributes["connection"] = connection
    return config


def at(path: Path, revision: str) -> None:
    """Make a database whose tables have an older form."""
    with connected(path) as connection:
        schema.upgrade(connection, revision=revision)


def test_the_newest_revision_is_the_one_that_the_code_knows() -> None:
    assert SCRIPTS.get_current_head() == schema.HEAD
    assert len(SCRIPTS.get_heads()) == 1


def test_every_migration_says_what_it_does() -> None:
    assert all(script.doc for script in SCRIPTS.walk_revisions())


def test_migrated_tables_are_the_declared_ones(tmp_path: Path) -> None:
    with connected(tmp_path / "x") as connection:
        schema.upgrade(connection)
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _: kind != "table" or name != schema.VERSION_TABLE,
            },
        )
        assert compare_metadata(context, metadata) == []
        assert ours(connection) - {schema.VERSION_TABLE} == set(metadata.tables)


def test_a_ready_store_has_the_newest_version(store: Store) -> None:
    assert store.version() == schema.HEAD
    store.check_version()


def test_preparing_again_changes_nothing(store: Store, database: Database) -> None:
    query = "SELECT table_name, column_name, data_type, column_default FROM information_schema.columns"
    if isinstance(store, SqliteStore):
        query = "SELECT name, sql FROM sqlite_master"
    before = sorted(map(repr, database.read(query)))
    store.prepare()
    assert sorted(map(repr, database.read(query))) == before


@pytest.mark.parametrize("revision", ["base", *REVISIONS])
def test_an_older_database_is_brought_up_to_date_with_its_data(tmp_path: Path, revision: str) -> None:
    path = tmp_path / ".sqlite"
    with SqliteStore(path, write=True, create=True) as store:
        store.prepare()
    with connected(path) as connection:
        command.downgrade(configured(connection), revision)
    with SqliteStore(path, write=True) as store:
        store.prepare()
        assert store.version() == schema.HEAD
        store.apply(commit(entry(0)), 0, "now")
        assert store.last_serial() == 0


def test_what_an_operator_does_about_faults_brings_an_older_database_up_to_date(tmp_path: Path) -> None:
    serverdir = Serverdir(tmp_path)
    serverdir.prepare()
    with SqliteStore(tmp_path / ".sqlite", write=True, create=True) as store:
        store.prepare()
    with connected(tmp_path / ".sqlite") as connection:
        command.downgrade(configured(connection), REVISIONS[0])
    with serverdir.lock(), pytest.raises(TargetLocked):
        clear_faults(serverdir)
    assert clear_faults(serverdir) == 0
    with SqliteStore(tmp_path / ".sqlite") as store:
        assert store.version() == schema.HEAD


@pytest.mark.parametrize("level", LEVELS)
def test_findings_of_before_stand_at_their_level(tmp_path: Path, level: str) -> None:
    """Their kinds were not noted."""
    path = tmp_path / ".sqlite"
    at(path, "0004")
    with connected(path) as connection:
        connection.execute(
            text(f"INSERT INTO replisync_verify VALUES (1, '{level}', 'failed', 7, 'then', 'now', 3, 0)")  # noqa: S608
        )
    with SqliteStore(path, write=True) as store:
        store.prepare()
        [found] = standing(store)
        assert (found.level, found.kinds) == (level, {"finding": 3})
    with connected(path) as connection:
        [(number,)] = connection.execute(text("SELECT id FROM replisync_verify"))
        assert LEVELS[number - 1] == level
        command.downgrade(configured(connection), "0004")
        assert connection.execute(text("SELECT id, findings FROM replisync_verify")).all() == [(1, 3)]


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_migration_can_be_taken_back(tmp_path: Path, revision: str) -> None:
    with connected(tmp_path / "x") as connection:
        schema.upgrade(connection, revision=revision)
        made = ours(connection)
        command.downgrade(configured(connection), "-1")
        before = REVISIONS.index(revision)
        if before == 0:
            assert ours(connection) == {schema.VERSION_TABLE}
        schema.upgrade(connection, revision=revision)
        assert ours(connection) == made


@pytest.mark.parametrize("version", ["9999", "zzzz", ""])
def test_the_database_of_a_newer_replisync_is_refused_and_left_alone(tmp_path: Path, version: str) -> None:
    path = tmp_path / ".sqlite"
    at(path, schema.HEAD)
    with connected(path) as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '{version}'"))  # noqa: S608
        tables = ours(connection)
    with SqliteStore(path, write=True) as store:
        for act in (store.prepare, store.check_version):
            with pytest.raises(TargetUnusable, match="version") as caught:
                act()
            assert caught.value.exit_code == 6
        assert store.version() == version
    with connected(path) as connection:
        assert ours(connection) == tables


def test_a_database_without_our_tables_is_refused_by_who_only_reads(tmp_path: Path) -> None:
    path = tmp_path / ".sqlite"
    with connected(path) as connection:
        connection.execute(text("CREATE TABLE changelog (serial INTEGER PRIMARY KEY)"))
    with SqliteStore(path) as store, pytest.raises(TargetUnusable, match="not made by replisync"):
        store.check_version()


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    """Schema and data change in one transaction, together or not at all."""
    path = tmp_path / ".sqlite"
    with connected(path) as connection:
        connection.execute(text("CREATE TABLE replisync_retained (in_the_way INTEGER)"))
    with SqliteStore(path, write=True) as store, pytest.raises(ReplisyncError):
        store.prepare()
    with connected(path) as connection:
        assert set(inspect(connection).get_table_names()) == {"replisync_retained"}
