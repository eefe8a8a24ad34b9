"""Rows that hold what cannot be in them: they are found first, and hidden from all other looks."""

from collections.abc import Iterator
from functools import partial

from replisync.standby import OddRow, Store, hide, odd_rows
from replisync.verify.findings import DATABASE, ROW, SCHEMA, Finding
from replisync.verify.subject import Subject


def look_at_rows(subject: Subject, *, texts: bool) -> None:
    """Find the rows that hold what cannot be in them, and let the others be seen alone.

    texts: whether texts are read too.
    """
    rows = odd_rows(subject.store, texts=texts)
    if rows:
        subject.findings.consider(lambda: map(_named, odd_rows(subject.store, texts=texts)))
    hide(subject.store, rows)


def _named(row: OddRow) -> Finding:
    name = f"{row.table} {row.name}"
    found = "nothing" if row.found is None else repr(row.found)
    return Finding(ROW, name, None, f"{row.expected} as its {row.column}", found)


def look_at_structure(subject: Subject, *, pages: bool) -> None:
    """Look for what would meddle with the tables, and whether the database is whole.

    pages: whether all of it is read for that.
    """
    subject.findings.consider(partial(_foreign, subject.store))
    if pages:
        subject.findings.consider(partial(_damages, subject.store))


def _foreign(store: Store) -> Iterator[Finding]:
    for kind, name, sql in store.foreign_objects():
        yield Finding(SCHEMA, f"{kind} {name}", None, "none, as devpi-server makes none", sql)


def _damages(store: Store) -> Iterator[Finding]:
    damages = store.damages()
    if damages:
        some = "; ".join(damages[:5])
        yield Finding(DATABASE, "database", None, "a database that is whole", some, _DAMAGED)


_DAMAGED = "what new indexes do not repair is lost: clone into an empty serverdir"
