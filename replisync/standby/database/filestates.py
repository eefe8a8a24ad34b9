"""Which files are not here, and why: each row of the ledger that says so has a reason, or is a fault.

So a state that damage made of another one is told from one that a commit wrote. Whoever writes a state writes
its reason in the same transaction, and who takes a fault away leaves a reason in its place.
"""

from sqlalchemy import ColumnElement, Connection, and_, delete, literal_column, or_, select, update

from replisync.changelog.records import ABSENT, UNASKED, WANTED
from replisync.standby.database import tables as t


def is_open() -> ColumnElement[bool]:
    """Return the condition that a file is not here, in the words of the index of those files."""
    return t.files.c.state != literal_column("'present'")


def is_unexplained() -> ColumnElement[bool]:
    """Return the condition that a file is said not to be here, and nothing says why."""
    fault = select(t.faults.c.relpath).where(t.faults.c.relpath == t.files.c.relpath).exists()
    no_reason = and_(t.files.c.reason.is_(None), or_(t.files.c.state == ABSENT, ~fault))
    # What is not here has no size: one that is left was that of a file which is.
    return and_(is_open(), or_(t.files.c.size.is_not(None), no_reason))


def fault_tells(connection: Connection, relpath: str) -> None:
    """Let a fault alone say why a file is not here."""
    here = update(t.files).where(t.files.c.relpath == relpath, t.files.c.state == WANTED)
    connection.execute(here.values(reason=None))


def forget_faults(connection: Connection, which: ColumnElement[bool]) -> None:
    """Forget faults; their files are wanted as those that were not asked for yet."""
    paths = select(t.faults.c.relpath).where(which)
    here = update(t.files).where(t.files.c.relpath.in_(paths), t.files.c.state == WANTED)
    connection.execute(here.values(reason=UNASKED))
    connection.execute(delete(t.faults).where(which))
