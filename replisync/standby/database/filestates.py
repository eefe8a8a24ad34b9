"""States of missing files: each row of the ledger for one has a reason, or is a fault.

This distinguishes a state that a commit wrote from one that damage made. A writer of a state writes its
reason in the same transaction, and one that removes a fault leaves a reason in its place.
"""

from sqlalchemy import ColumnElement, Connection, and_, delete, literal_column, or_, select, update

from replisync.changelog.records import ABSENT, UNASKED, WANTED
from replisync.standby.database import tables as t


def is_open() -> ColumnElement[bool]:
    """Return the condition that a file is missing, in the words of the index of those files."""
    return t.files.c.state != literal_column("'present'")


def is_unexplained() -> ColumnElement[bool]:
    """Return the condition that a file is recorded as missing without a reason."""
    fault = select(t.faults.c.relpath).where(t.faults.c.relpath == t.files.c.relpath).exists()
    no_reason = and_(t.files.c.reason.is_(None), or_(t.files.c.state == ABSENT, ~fault))
    # A missing file has no size: a remaining size is that of a present one.
    return and_(is_open(), or_(t.files.c.size.is_not(None), no_reason))


def fault_tells(connection: Connection, relpath: str) -> None:
    """Let only the fault give the reason of a missing file."""
    here = update(t.files).where(t.files.c.relpath == relpath, t.files.c.state == WANTED)
    connection.execute(here.values(reason=None))


def forget_faults(connection: Connection, which: ColumnElement[bool]) -> None:
    """Delete faults; their files become wanted, as not requested yet."""
    paths = select(t.faults.c.relpath).where(which)
    here = update(t.files).where(t.files.c.relpath.in_(paths), t.files.c.state == WANTED)
    connection.execute(here.values(reason=UNASKED))
    connection.execute(delete(t.faults).where(which))
