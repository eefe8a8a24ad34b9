"""What the store in PostgreSQL promises beyond what every store does."""

from collections.abc import Iterator

import pytest

from replisync.devpi.storage import Storage
from replisync.errors import LocalFailure, TargetLocked
from replisync.standby.database.postgres import PostgresStore
from tests.edges.conftest import commit, entry, file
from tests.support.postgres import Database, Postgres

NOW = "2026-11-22T11:39:23.000Z"


@pytest.fixture
def schema(postgres: Postgres) -> Database:
    """An empty schema of its own user, in a database whose texts have the order of a language."""
    return postgres.schema()


@pytest.fixture
def store(schema: Database) -> Iterator[PostgresStore]:
    """A store that is ready and empty."""
    with PostgresStore(Storage.parse(schema.spec), write=True) as store:
        store.prepare()
        yield store


def next_serial(schema: Database) -> int:
    """Return what devpi-server's next write would get, and take it."""
    return int(schema.scalar(f"SELECT nextval('{schema.user}.changelog_serial_seq')"))


def test_files_of_an_index_are_its_own_in_the_order_of_bytes(store: PostgresStore) -> None:
    """The order of a language ignores slashes and case at first; ranges and pages must not."""
    names = [f"{index}/+f/{x}" for index in ("u/dev", "u/dev0", "u/dev-a", "u/Dev", "u/de") for x in "aBc_"]
    changes = {name: ("STAGEFILE", -1, file()) for name in names}
    store.apply(commit(entry(0, changes)), 0, NOW)
    for index in ("u/dev", "u/dev0", "u/dev-a", "u/Dev", "u/de"):
        found, after = [], ""
        while page := store.wanted_files(index, after, 1):
            after = page[-1].relpath
            found.append(after)
        assert found == sorted(name for name in names if name.startswith(f"{index}/"))


def test_the_sequence_is_right_after_each_batch(store: PostgresStore, schema: Database) -> None:
    """Also where a transaction that failed had moved it on."""
    assert next_serial(schema) == 0
    store.apply(commit(entry(0), entry(1), entry(2)), 2, NOW)
    assert next_serial(schema) == 3
    store.apply(commit(entry(3)), 3, NOW)
    assert next_serial(schema) == 4
    schema.query(f"SELECT setval('{schema.user}.changelog_serial_seq', 99)")
    store.prepare()
    assert next_serial(schema) == 4


def test_an_empty_target_begins_with_serial_0(store: PostgresStore, schema: Database) -> None:
    """devpi-server's first serial is 0, and preparing twice does not spend it."""
    store.prepare()
    assert next_serial(schema) == 0


@pytest.mark.usefixtures("store")
def test_devpis_lock_is_held_while_we_write_and_not_longer(schema: Database) -> None:
    """A devpi-server of the hot standby stores its files between our transactions."""
    seen: list[bool] = []
    free = "SELECT pg_try_advisory_xact_lock(1)"
    with PostgresStore(
        Storage.parse(schema.spec), write=True, guard=lambda: seen.append(schema.scalar(free))
    ) as other:
        other.put_contact(0, NOW)
    assert seen == [False]
    assert schema.scalar(free) is True


def test_the_lock_of_a_run_is_taken_again_with_a_new_connection(schema: Database) -> None:
    """Who lost its connection writes nothing before it is alone again; meanwhile the trouble may pass."""
    storage = Storage.parse(schema.spec)
    with PostgresStore(storage, write=True, alone=True) as one:
        one.prepare()
        with PostgresStore(storage, write=True, alone=True) as other, pytest.raises(TargetLocked):
            other.prepare()
        schema.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        with PostgresStore(storage, write=True, alone=True) as other:
            other.prepare()
            for _ in range(2):
                with pytest.raises(LocalFailure) as caught:
                    one.put_contact(0, NOW)
                assert caught.value.transient
        one.put_contact(0, NOW)


@pytest.mark.usefixtures("store")
def test_who_only_reads_cannot_write(schema: Database) -> None:
    """`status` changes nothing even by a mistake of ours."""
    with (
        PostgresStore(Storage.parse(schema.spec)) as reader,
        pytest.raises(LocalFailure, match="read-only"),
    ):
        reader.put_contact(0, NOW)


@pytest.mark.parametrize(
    "text", ["a,b", '{"}', "back\\slash", "", "NULL", "%s %", "ä日本", "'; --", "tab\tnl\n"]
)
def test_any_text_is_a_key(store: PostgresStore, schema: Database, text: str) -> None:
    """Nothing in a key is taken for SQL or for a part of an array."""
    store.apply(commit(entry(0, {text: ("PLUGIN", -1, 1), "other": (text, -1, 2)})), 0, NOW)
    rows = schema.query(f"SELECT key, keyname FROM {schema.user}.kv")  # noqa: S608
    assert sorted(rows) == sorted([["other", text], [text, "PLUGIN"]])
    assert store.value(text) is not None
