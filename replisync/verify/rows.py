"""Rows that hold what cannot be in them: they are found first, and hidden from all other looks."""

from collections.abc import Callable

from replisync.store.oddrows import OddRow, hide, odd_rows
from replisync.verify.findings import ROW, Finding
from replisync.verify.subject import Subject


def look_at_rows(subject: Subject, *, texts: bool) -> None:
    """Find the rows that hold what cannot be in them, and let the others be seen alone.

    texts: whether texts are read too.
    """
    rows = odd_rows(subject.store, texts=texts)
    for row in rows:
        subject.findings.suspect(_named(row), _again(subject, row, texts=texts))
    hide(subject.store, rows)


def _named(row: OddRow) -> Finding:
    name = f"{row.table} {row.name}"
    return Finding(ROW, name, None, f"{row.expected} as its {row.column}", repr(row.found))


def _again(subject: Subject, row: OddRow, *, texts: bool) -> Callable[[], Finding | None]:
    def look() -> Finding | None:
        return next(map(_named, odd_rows(subject.store, texts=texts, only=row)), None)

    return look
