"""Missing files in the ledger: each of them needs a reason, or is a fault.

A writer of a state writes the reason with it, so that one query in one snapshot is enough: a state without a
reason is not ours, and may hide a lost file.
"""

from functools import partial

from replisync.standby import LedgerFile, audit
from replisync.verify.findings import LEDGER, MISSING_FILE, Finding
from replisync.verify.subject import Subject

# The number of rows to read at a time.
_PAGE = 1000


def look_at_states(subject: Subject) -> None:
    """Find files that are recorded as missing without a reason."""
    after = ""
    while page := audit.unexplained(subject.store, after, _PAGE):
        after = page[-1].relpath
        for file in page:
            subject.context.stop.check()
            subject.findings.suspect(_named(subject, file), partial(_again, subject, file.relpath))


def _again(subject: Subject, relpath: str) -> Finding | None:
    file = audit.unexplained_now(subject.store, relpath)
    return None if file is None else _named(subject, file)


def _named(subject: Subject, file: LedgerFile) -> Finding:
    [seen] = subject.survey.look_at([("", file.relpath)]).files
    said = f"it is recorded as {file.state} without a reason"
    if seen.size is None:
        return Finding(MISSING_FILE, file.relpath, file.serial, "a file", f"none: {said}")
    return Finding(LEDGER, file.relpath, file.serial, "that it is present, as there is a file", said)
