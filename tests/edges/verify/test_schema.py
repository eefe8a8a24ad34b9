"""A schema is as its version says, and is made so where nothing is lost by that."""

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Connection

from replisync.errors import TargetUnusable
from replisync.session.settings import Settings
from replisync.standby.database.schema import note_version
from replisync.standby.opening import open_database
from replisync.verify import findings as kinds
from replisync.verify.repair.repair import repair
from replisync.verify.run import Level
from tests.edges.standbys import Standby, context
from tests.edges.verify.damages import contents, found
from tests.fakes import Died


def test_a_schema_that_cannot_even_be_told_is_no_bug_of_ours(one: Standby) -> None:
    with closing(sqlite3.connect(one.root / ".sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = 1")
        sql = b"CREATE TABLE replisync_tip (id INTEGER \xff"
        database.execute(
            "UPDATE sqlite_master SET sql = CAST(? AS TEXT) WHERE name = 'replisync_tip'", (sql,)
        )
    for verb in (one.look, one.repair):
        with pytest.raises(TargetUnusable):
            verb()


@pytest.mark.parametrize("statement", ["DROP TABLE replisync_schema", "DELETE FROM replisync_schema"])
def test_the_version_of_our_tables_is_known_by_them(one: Standby, statement: str) -> None:
    before = contents(one)
    one.database.write(statement)
    with pytest.raises(TargetUnusable) as caught:
        one.look()
    assert "verify --repair" in caught.value.hint
    [repairs] = repair(one.serverdir, Level.FULL, Settings(), context()).repairs
    assert (repairs.kind, repairs.subject) == (kinds.SCHEMA, "replisync_schema")
    assert one.look().findings == []
    assert contents(one) == before


def test_the_version_is_written_with_its_table_or_not_at_all(one: Standby) -> None:
    one.database.write("DROP TABLE replisync_schema")

    def die(connection: Connection) -> None:
        assert note_version(connection)
        raise Died

    with open_database(one.serverdir, write=True) as store, pytest.raises(Died):
        store.write(die)
    assert one.database.read("SELECT name FROM sqlite_master WHERE name = 'replisync_schema'") == []
    assert len(repair(one.serverdir, Level.FULL, Settings(), context()).repairs) == 1
    assert one.look().findings == []


def test_a_table_of_ours_with_other_columns_stays_a_finding(one: Standby) -> None:
    one.database.write("ALTER TABLE replisync_files RENAME COLUMN digest TO digast")
    assert found(one, Level.FULL) == {kinds.SCHEMA}
    assert [finding.subject for finding in one.repair().findings] == ["replisync_files"]
