"""Rows with invalid values: found first, and hidden from all other checks."""

from collections.abc import Iterator
from functools import partial

from replisync.standby import OddRow, Store, hide, odd_rows
from replisync.verify.findings import DATABASE, ROW, SCHEMA, Finding
from replisync.verify.subject import Subject


def look_at_rows(subject: Subject, *, texts: bool) -> None:
    """Find rows with invalid values, and hide them from the reader.

    texts: whether to check texts too.
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
    """Find foreign objects that would affect the tables, and check the database's structure.

    pages: whether to read all of it for that.
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
        yield Finding(DATABASE, "database", None, "an undamaged database", some, _DAMAGED)


_DAMAGED = "rebuilt indexes do not repair this, and the data is lost: clone into an empty serverdir"
