"""The moves on disk that committed serials demand, and the files that they retain.

A move is recorded in the transaction that demands it, and a file that arrives before its transaction is
recorded before it is placed: after a crash, the records tell what remains to be done.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, and_, case, func, insert, or_, select, update

from replisync.changelog.records import ARRIVE, PRESENT, Pending, Retained
from replisync.standby.database import tables as t
from replisync.standby.database.engine import chunks, delete_rows
from replisync.standby.database.history import History


class Moves(History):
    """The moves that are pending, and the files that are retained."""

    def pending(self) -> list[Pending]:
        """Return the moves on disk that committed serials still demand.

        A file that arrived for a serial that was committed without it is to be dropped, as one of no serial;
        one that arrived for a rewind that was never committed is to be discarded: it is a copy.
        A file that the ledger has as present is never dropped, whatever the records say.
        """
        last = func.coalesce(select(func.max(t.changelog.c.serial)).scalar_subquery(), -1)
        here = and_(t.files.c.relpath == t.pending.c.relpath, t.files.c.state == PRESENT)
        query = select(t.pending).outerjoin(t.files, here).order_by(t.pending.c.relpath)
        query = query.where(
            or_(
                t.pending.c.action == "replace",
                and_(
                    t.files.c.relpath.is_(None), or_(t.pending.c.action == "drop", t.pending.c.serial <= last)
                ),
            )
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [
            Pending(row.relpath, -1, "drop" if row.serial >= 0 else "discard", None)
            if row.action == ARRIVE
            else Pending(row.relpath, row.serial, row.action, row.staged)
            for row in rows
        ]

    def expect(self, coming: Mapping[str, int]) -> None:
        """Record the files that are placed before the commit that names them.

        coming: the serial that names them, by relpath; -1 for a rewind. Files that the ledger has already are
            omitted.
        After a crash this tells that such a file belongs to a serial to come.
        """
        new: dict[str, int] = {}
        with self._reading() as connection:
            for paths in chunks(coming):
                in_ledger = select(t.files.c.relpath).where(t.files.c.relpath.in_(paths))
                known = set(connection.execute(in_ledger).scalars())
                rows = connection.execute(select(t.pending).where(t.pending.c.relpath.in_(paths)))
                known |= {row.relpath for row in rows if row.serial == coming[row.relpath]}
                new |= {path: coming[path] for path in paths if path not in known}
        if not new:
            return
        with self._writing() as connection:
            delete_rows(connection, t.pending.c.relpath, new)
            rows_of_them = [
                {"relpath": path, "serial": serial, "action": ARRIVE, "staged": None}
                for path, serial in new.items()
            ]
            connection.execute(insert(t.pending), rows_of_them)

    def forget_false_drops(self) -> None:
        """Delete notes to drop files that must stay."""
        present = select(t.files.c.relpath).where(t.files.c.state == PRESENT)
        false = and_(t.pending.c.action == "drop", t.pending.c.relpath.in_(present))
        with self._writing() as connection:
            connection.execute(t.pending.delete().where(false))

    def put_leftovers(self, relpaths: Iterable[str]) -> None:
        """Demand that files without a key are retained; `pending` then has them."""
        with self._writing() as connection:
            self._put_leftovers(connection, relpaths)

    @staticmethod
    def _put_leftovers(connection: Connection, relpaths: Iterable[str]) -> None:
        for paths in chunks(relpaths):
            connection.execute(t.pending.delete().where(t.pending.c.relpath.in_(paths)))
            rows = [{"relpath": path, "serial": -1, "action": "drop", "staged": None} for path in paths]
            connection.execute(insert(t.pending), rows)

    def settle(self, done: list[Pending], retained: list[dict[str, Any]]) -> None:
        """Delete moves that are done, and record the files that they retained."""
        with self._writing() as connection:
            delete_rows(connection, t.pending.c.relpath, (move.relpath for move in done))
            for row in retained:
                connection.execute(t.retained.delete().where(t.retained.c.stored_as == row["stored_as"]))
                connection.execute(insert(t.retained).values(**row))

    def retained_before(self, moment: str) -> list[str]:
        """Return the names of files that were retained at `moment` or before."""
        query = select(t.retained.c.stored_as).where(t.retained.c.retained_at <= moment)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def overdue_since(self, moment: str, oldest: str, now: str) -> list[str]:
        """Return the names of retained files that were found overdue at `moment` or before, and still are.

        oldest: files that were retained then, or before, are overdue.
        now: noted for files that are overdue for the first time. A note that comes from the future, or that
            is of a file no longer overdue, was made by a wrong clock, and is forgotten.
        """
        noted, overdue = t.retained.c.overdue_at, t.retained.c.retained_at <= oldest
        wrong = or_(and_(noted.is_(None), overdue), and_(noted.is_not(None), ~overdue), noted > now)
        with self._reading() as connection:
            outdated = connection.execute(select(t.retained.c.stored_as).where(wrong).limit(1)).first()
        if outdated is not None:
            with self._writing() as connection:
                note = case((overdue, now), else_=None)
                connection.execute(update(t.retained).where(wrong).values(overdue_at=note))
        query = select(t.retained.c.stored_as).where(noted <= moment)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def forget_retained(self, names: list[str]) -> None:
        """Delete the records of retained files of these names."""
        with self._writing() as connection:
            delete_rows(connection, t.retained.c.stored_as, names)

    def retained_of(self, relpaths: Iterable[str]) -> list[Retained]:
        """Return the records of retained files of these paths, the earliest serial first."""
        found: list[Retained] = []
        with self._reading() as connection:
            for paths in chunks(relpaths):
                query = select(t.retained).where(t.retained.c.relpath.in_(paths))
                rows = connection.execute(query.order_by(t.retained.c.serial, t.retained.c.retained_at))
                found += [Retained(**row) for row in rows.mappings()]
        return found

    def retained_beyond_last(self) -> list[Retained]:
        """Return the records of files retained by serials that a rewind reverted, or by no serial."""
        with self._reading() as connection:
            beyond = t.retained.c.serial > self._last_serial(connection)
            nameless = t.retained.c.stored_as.startswith("-1-")
            rows = connection.execute(select(t.retained).where(or_(beyond, nameless)))
            return [Retained(**row) for row in rows.mappings()]

    def rename_orphaned_retained(self, names: Mapping[str, str]) -> None:
        """Record that retained files have new names, and belong to no serial of this history."""
        with self._writing() as connection:
            for name, new in names.items():
                here = update(t.retained).where(t.retained.c.stored_as == name)
                connection.execute(here.values(stored_as=new, serial=-1))
