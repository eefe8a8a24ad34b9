"""Check that PostgreSQL's indexes match their tables, in the order in which the database sorts now.

An index that lacks rows, has too many, or was built with another version of a collation gives wrong answers,
and lets a key in twice. The server does not notice it.
"""

from typing import NamedTuple

from sqlalchemy import Connection

# The b-trees of tables of ours and of devpi-server's; each has one column.
_INDEXES = """
    SELECT quote_ident(c.relname), quote_ident(i.relname), quote_ident(a.attname), x.indisunique
    FROM pg_index x
    JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_am m ON m.oid = i.relam
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.indkey[0]
    WHERE pg_table_is_visible(c.oid) AND m.amname = 'btree' AND x.indnatts = 1 AND x.indpred IS NULL
    AND x.indisvalid AND (c.relname IN ('changelog', 'kv', 'files') OR starts_with(c.relname, 'replisync_'))
    ORDER BY c.relname, i.relname"""

# The planner settings for reading all of a table by its index, or without it.
_BY_INDEX = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off"}
_PAST_INDEX = {"enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_bitmapscan": "off"}


class WrongIndex(NamedTuple):
    """An index that does not match its table."""

    table: str
    name: str
    column: str
    unique: bool
    why: str


def wrong_indexes(connection: Connection) -> list[WrongIndex]:
    """Return the indexes that do not match their tables, in one snapshot."""
    found = []
    for table, name, column, unique in connection.exec_driver_sql(_INDEXES).all():
        _plan(connection, _BY_INDEX)
        wrong = "<=" if unique else "<"
        ordered = f"SELECT {column} AS value, lag({column}) OVER (ORDER BY {column}) AS before FROM {table}"  # noqa: S608
        query = f"SELECT count(*), count(*) FILTER (WHERE value {wrong} before) FROM ({ordered}) AS o"  # noqa: S608
        indexed, disordered = connection.exec_driver_sql(query).one()
        _plan(connection, _PAST_INDEX)
        rows = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608
        why = None
        if indexed != rows:
            why = f"the index {name} has {indexed} of {rows} rows"
        elif disordered:
            why = f"the index {name} has rows in another order than the database sorts them by now"
        if why is not None:
            found.append(WrongIndex(table, name, column, unique, why))
    _plan(connection, {})
    return found


def rebuild(connection: Connection) -> None:
    """Rebuild indexes that do not match, and keep only the newest row of each duplicated key."""
    for wrong in wrong_indexes(connection):
        if wrong.unique:
            _plan(connection, _PAST_INDEX)
            ranks = f"row_number() OVER (PARTITION BY {wrong.column} ORDER BY ctid DESC) AS rank"
            ranked = f"SELECT ctid AS at, {ranks} FROM {wrong.table}"  # noqa: S608
            doubled = f"ARRAY(SELECT at FROM ({ranked}) AS ranked WHERE rank > 1)"  # noqa: S608
            connection.exec_driver_sql(f"DELETE FROM {wrong.table} WHERE ctid = ANY({doubled})")  # noqa: S608
            _plan(connection, {})
        connection.exec_driver_sql(f"REINDEX INDEX {wrong.name}")


def _plan(connection: Connection, settings: dict[str, str]) -> None:
    """Apply these planner settings until the transaction ends."""
    for name in {**_BY_INDEX, **_PAST_INDEX}:
        connection.exec_driver_sql(f"SET LOCAL {name} = {settings.get(name, 'on')}")
