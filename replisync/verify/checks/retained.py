"""The retained folder, compared with its records."""

import os
from collections.abc import Iterator

from replisync.changelog import Retained
from replisync.standby import audit
from replisync.system import local_errors
from replisync.verify.findings import LEDGER, Finding
from replisync.verify.subject import Subject

# The number of rows to read at a time.
_PAGE = 5000


def look_at_retained(subject: Subject) -> None:
    """Find recorded retained files that are missing, on which a rewind would rely."""
    for row in _lost(subject):
        if _next_run_does_it(subject):
            return
        name = f".replisync/retained/{row.stored_as}"
        finding = Finding(LEDGER, name, row.serial, f"a file, once {row.relpath}", "none")

        def look(row: Retained = row, finding: Finding = finding) -> Finding | None:
            if _next_run_does_it(subject) or _is_there(subject, row.stored_as):
                return None
            return finding if row in subject.store.retained_of([row.relpath]) else None

        subject.findings.suspect(finding, look)


def forget_lost(subject: Subject) -> None:
    """Delete the records of retained files that are missing; no other process may be writing."""
    some: list[str] = []
    for row in _lost(subject):
        some.append(row.stored_as)
        if len(some) >= _PAGE:
            subject.store.forget_retained(some)
            some = []
    subject.store.forget_retained(some)


def _next_run_does_it(subject: Subject) -> bool:
    """Return whether a run is removing files, or was interrupted; the next one then finishes it."""
    run = subject.store.last_run()
    cut_short = run is not None and run.outcome != "ok"
    return subject.in_use() or (cut_short and not subject.alone)


def _lost(subject: Subject) -> Iterator[Retained]:
    after = ""
    while page := audit.retained(subject.store, after, _PAGE):
        after = page[-1].stored_as
        yield from (row for row in page if not _is_there(subject, row.stored_as))
        subject.context.stop.check()


def _is_there(subject: Subject, name: str) -> bool:
    path = subject.serverdir.retained / name
    with local_errors(f"cannot look for {path}"):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError:
            return True  # as far as known; the folder's mode is a finding
    return True
