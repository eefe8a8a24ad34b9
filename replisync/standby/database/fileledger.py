"""The ledger of files: those that the live keys demand, those that are present, and the faults of others."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, select, update

from replisync.changelog.plan import WantedFile
from replisync.changelog.records import ABSENT, PRESENT, SKIPPED, UNASKED, WANTED, Fault, FileCounts
from replisync.devpi.keys import Digest, index_of
from replisync.standby.database import filestates as ledger
from replisync.standby.database import tables as t
from replisync.standby.database.engine import chunks, delete_rows
from replisync.standby.database.history import History


class FileLedger(History):
    """The files of the live keys; see `ledger` for the content of its rows."""

    def wanted_indexes(self) -> list[str]:
        """Return the indexes, as `user/index`, with missing files."""
        return self._indexes_of(t.files.c.state == WANTED)

    def _indexes_of(self, condition: ColumnElement[bool]) -> list[str]:
        # Index by index: all relpaths at once would grow with the number of files.
        found: list[str] = []
        after = ""
        with self._reading() as connection:
            while True:
                query = select(func.min(t.files.c.relpath)).where(condition, t.files.c.relpath > after)
                relpath = connection.execute(query).scalar()
                if relpath is None:
                    return found
                found.append(index_of(relpath))
                # "0" is the character after "/". A name without any may begin that of an index.
                after = f"{found[-1]}0" if "/" in found[-1] else relpath

    def missing_private_files(self) -> int:
        """Count the missing files of private stages that the live keys demand."""
        # Including expectedly missing ones: a live key without its file stops devpi-export.
        missing = t.files.c.state != PRESENT
        private = [
            index for index in self._indexes_of(missing) if self.index_type(index) not in (None, "mirror")
        ]
        query = select(func.count()).select_from(t.files).where(missing)
        with self._reading() as connection:
            return sum(connection.execute(query.where(self._inside(index))).scalar_one() for index in private)

    @staticmethod
    def _inside(index: str) -> ColumnElement[bool]:
        # "0" is the character after "/".
        return and_(t.files.c.relpath > f"{index}/", t.files.c.relpath < f"{index}0")

    def wanted_files(self, index: str, after: str, limit: int) -> list[WantedFile]:
        """Return up to `limit` missing files of an index, by relpath, after `after`."""
        return self._wanted(limit, t.files.c.relpath > after, self._inside(index))

    def wanted_file(self, relpath: str) -> WantedFile | None:
        """Return a missing file of the ledger; None if it is present, or no longer demanded."""
        return next(iter(self._wanted(1, t.files.c.relpath == relpath)), None)

    def forgotten_files(self, after: str, limit: int) -> list[WantedFile]:
        """Return up to `limit` files after `after` that are neither present nor among the faults."""
        no_fault = t.files.c.relpath.not_in(select(t.faults.c.relpath))
        return self._wanted(limit, t.files.c.relpath > after, no_fault)

    def _wanted(self, limit: int, *which: ColumnElement[bool]) -> list[WantedFile]:
        files = t.files.c
        query = select(files.relpath, files.serial, files.digest).where(files.state == WANTED, *which)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(files.relpath).limit(limit)).all()
        return [WantedFile(path, serial, Digest.parse(digest)) for path, serial, digest in rows]

    def files_arrived(
        self,
        present: Mapping[str, int],
        absent: Mapping[str, str] | None = None,
        faults: tuple[Fault, ...] = (),
    ) -> None:
        """Record the outcomes of wanted files: present (with sizes), absent (with reasons), or failed."""
        absent = absent or {}
        with self._writing() as connection:
            self._mark_present(connection, present)
            for relpath, reason in absent.items():
                here = update(t.files).where(t.files.c.relpath == relpath)
                connection.execute(here.values(state=ABSENT, size=None, reason=reason))
            delete_rows(connection, t.faults.c.relpath, [*present, *absent])
            if faults:
                self._put_faults(connection, faults)

    def leave_files(self, relpaths: Iterable[str]) -> None:
        """Record that files are missing because they were not requested."""
        with self._writing() as connection:
            for paths in chunks(relpaths):
                here = update(t.files).where(t.files.c.relpath.in_(paths))
                connection.execute(here.values(state=WANTED, size=None, reason=UNASKED))

    def file_counts(self) -> FileCounts:
        """Count the files of the live keys."""
        with self._reading() as connection:
            total = connection.execute(select(func.count()).select_from(t.files)).scalar_one()
            by_state = select(t.files.c.state, func.count()).where(t.files.c.state != PRESENT)
            found = connection.execute(by_state.group_by(t.files.c.state))
            rows: dict[str, int] = {row[0]: row[1] for row in found}
        return FileCounts(total, rows.get(WANTED, 0) + rows.get(ABSENT, 0), rows.get(ABSENT, 0))

    # Faults.

    def faults(self) -> list[Fault]:
        """Return the files that could not be fetched, by relpath."""
        return self._faults(select(t.faults))

    def faults_of(self, relpaths: Iterable[str]) -> dict[str, Fault]:
        """Return those of some files that could not be fetched, by relpath."""
        found: dict[str, Fault] = {}
        for paths in chunks(relpaths):
            some = self._faults(select(t.faults).where(t.faults.c.relpath.in_(paths)))
            found |= {fault.relpath: fault for fault in some}
        return found

    def faults_due(self, now: str, latest: str, limit: int) -> dict[str, Fault]:
        """Return up to `limit` of them, by relpath, that are due, or would be due after `latest`.

        Omit files for which a serial waits, and files that are not to be requested.
        """
        when = t.faults.c.next_try
        wanted = select(t.files.c.relpath).where(t.files.c.state == WANTED)
        is_due = ((when <= now) | (when > latest)) & t.faults.c.relpath.in_(wanted)
        due = self._faults(select(t.faults).where(is_due).limit(limit))
        return {fault.relpath: fault for fault in due}

    def _faults(self, query: Select[Any]) -> list[Fault]:
        with self._reading() as connection:
            return self._all_faults(connection, query)

    @staticmethod
    def _all_faults(connection: Connection, query: Select[Any]) -> list[Fault]:
        rows = connection.execute(query.order_by(t.faults.c.relpath))
        return [Fault(r.relpath, r.serial, r.kind, r.reason, r.tries, r.next_try) for r in rows]

    def fault_count(self) -> int:
        """Count the files that could not be fetched."""
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(t.faults)).scalar_one())

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        """Record files that could not be fetched; a known one counts another try."""
        with self._writing() as connection:
            self._put_faults(connection, faults)

    def _put_faults(self, connection: Connection, faults: Iterable[Fault]) -> None:
        for fault in faults:
            ledger.fault_tells(connection, fault.relpath)
            query = select(t.faults.c.tries, t.faults.c.kind).where(t.faults.c.relpath == fault.relpath)
            known = connection.execute(query).first()
            tries = known.tries if known else 0
            # The operator may have skipped it after this fault was judged.
            skipped = known is not None and known.kind == SKIPPED
            connection.execute(t.faults.delete().where(t.faults.c.relpath == fault.relpath))
            connection.execute(
                insert(t.faults).values(
                    relpath=fault.relpath,
                    serial=fault.serial,
                    kind=SKIPPED if skipped else fault.kind,
                    reason=fault.reason,
                    tries=tries + fault.tries,
                    next_try=fault.next_try,
                )
            )

    def change_faults(
        self, values: dict[str, Any], choose: Callable[[list[Fault]], Iterable[str]] | None = None
    ) -> int:
        """Set columns of faults; return their number.

        choose: returns the relpaths of those to change, in the same transaction; None for all.
        """
        with self._writing() as connection:
            if choose is None:
                return connection.execute(update(t.faults).values(**values)).rowcount
            return sum(
                connection.execute(
                    update(t.faults).where(t.faults.c.relpath.in_(paths)).values(**values)
                ).rowcount
                for paths in chunks(choose(self._all_faults(connection, select(t.faults))))
            )

    def clear_faults(self, relpaths: Iterable[str]) -> None:
        """Delete faults; files that are still missing are then requested."""
        with self._writing() as connection:
            for paths in chunks(relpaths):
                ledger.forget_faults(connection, t.faults.c.relpath.in_(paths))
