"""Our tables in PostgreSQL are made and unmade by the same migrations, and are the declared ones."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from replisync.devpi.storage import Storage
from replisync.standby.database import schema
from replisync.standby.database.pgconnect import make_engine
from replisync.standby.database.postgres import PostgresStore
from replisync.standby.database.tables import devpi_metadata, metadata
from tests.support.postgres import Database, Postgres


def ours(connection: Connection) -> set[str]:
    """Return the names of our tables."""
    return {name for name in inspect(connection).get_table_names() if name.startswith("replisync_")}


def collations(database: Database) -> set[tuple[str, str]]:
    """Return the columns of ours that have an order of their own."""
    query = """SELECT table_name, column_name FROM information_schema.columns
        WHERE collation_name = 'C' AND table_name LIKE 'replisync_%' AND table_schema = :schema"""
    return {(table, column) for table, column in database.query(query, schema=database.user)}


def test_migrated_tables_are_the_declared_ones_up_and_down(postgres: Postgres) -> None:
    database = postgres.schema()
    engine = make_engine(Storage.parse(database.spec), connections=1, write=True)
    with engine.begin() as connection:
        schema.upgrade(connection)
        named = lambda name, kind, _: kind != "table" or name != schema.VERSION_TABLE  # noqa: E731
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_name": named}
        )
        assert compare_metadata(context, metadata) == []
        made = ours(connection)
        assert made - {schema.VERSION_TABLE} == set(metadata.tables)
    migrated = collations(database)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.migrations_folder()))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert ours(connection) == {schema.VERSION_TABLE}
        metadata.create_all(connection)
    assert collations(database) == migrated, "an order that is declared is not migrated, or the reverse"
    engine.dispose()


def test_a_ready_store_has_devpis_tables_too(postgres: Postgres) -> None:
    database = postgres.schema()
    with PostgresStore(Storage.parse(database.spec), write=True) as store:
        store.prepare()
        assert store.version() == schema.HEAD
    rows = database.query("SELECT tablename FROM pg_tables WHERE schemaname = :schema", schema=database.user)
    names = {name for [name] in rows if not name.startswith("replisync_")}
    assert names == {*devpi_metadata.tables, "files"}
