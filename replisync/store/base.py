"""All that the store of a target does, whatever the database: one transaction per batch.

A subclass knows how to connect, how to make devpi's tables and how to write many rows quickly.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, insert, or_, select, update
from sqlalchemy.schema import CreateIndex, CreateTable

from replisync.changelog import parse_stored
from replisync.clock import Moment
from replisync.errors import ForeignWriter, TargetUnusable, UnreadableText
from replisync.keys import READ_KEYNAMES, Digest, index_of, index_type, user_key
from replisync.plan import WantedFile
from replisync.store import ageing, ledger, mending, schema, undo
from replisync.store import tables as t
from replisync.store.records import (
    ABSENT,
    ARRIVE,
    PRESENT,
    UNASKED,
    WANTED,
    Commit,
    Contact,
    Divergence,
    Fault,
    FileCounts,
    FileRow,
    Identity,
    Pending,
    Retained,
    Run,
    Source,
    Verification,
)

# How many parameters one statement takes at most; SQLite's bound was 999 for a long time.
_CHUNK = 500

# Runs that are remembered; a catchup each minute would fill the table otherwise.
_RUNS_KEPT = 1000

Guard = Callable[[], None]

_T = TypeVar("_T")


def chunks(items: Iterable[str]) -> Iterator[list[str]]:
    """Cut names into lists that fit into one statement."""
    ordered = list(items)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


class Store:
    """The database of one target.

    engine: connected to it.
    guard: called inside each writing transaction; raises where the target is no longer ours to write.
    """

    def __init__(self, engine: Engine, guard: Guard | None = None) -> None:
        self._engine = engine
        self._guard = guard or (lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    # What a subclass provides.

    @contextmanager
    def _translated(self) -> Iterator[None]:
        raise NotImplementedError

    def _make_devpi_tables(self, connection: Connection) -> None:
        raise NotImplementedError

    def _write_rows(self, connection: Connection, rows: list[tuple[int, bytes]]) -> None:
        raise NotImplementedError

    def _write_keys(self, connection: Connection, keys: Iterable[tuple[str, str, int]]) -> None:
        raise NotImplementedError

    def _write_files(self, connection: Connection, rows: Iterable[FileRow]) -> None:
        raise NotImplementedError

    def _finish_rows(self, connection: Connection, last: int) -> None:
        """Do what must be done last in a transaction that writes rows up to serial `last`."""

    def _mark_present(self, connection: Connection, present: Mapping[str, int]) -> None:
        raise NotImplementedError

    def back_to_devpi(self) -> None:
        """Put the database into the form that devpi-server makes."""

    def missing_objects(self) -> list[str]:
        """Return the names of what devpi-server makes in a database and is not there, or is another.

        And of our own tables that are not there, or others.
        """
        raise NotImplementedError

    def foreign_objects(self) -> list[tuple[str, str, str]]:
        """Return kind, name and SQL of what would meddle with our tables, and nobody of us makes."""
        raise NotImplementedError

    def damages(self) -> list[str]:
        """Return what is wrong with the database's structure, as far as it tells by itself."""
        return []

    def mend_structure(self) -> None:
        """Remove what meddles with our tables, and make anew what is made of them."""
        raise NotImplementedError

    def next_serial(self) -> tuple[int, int] | None:
        """Return the serial that devpi-server would write next, and the one that it should be.

        None where it goes by the last entry, which is never wrong.
        """
        return None

    def check_unused(self) -> None:
        """Make sure that a database that a clone did not begin to fill holds nobody's data.

        Raises TargetUnusable.
        """

    # Transactions.

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            self._guard()
            yield connection

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` finds in one snapshot; it must be short."""
        with self._reading() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` does in one transaction that writes."""
        with self._writing() as connection:
            return work(connection)

    def prepare(self) -> None:
        """Make devpi's tables and bring ours up to date.

        Raises TargetUnusable where a newer replisync wrote them.
        """
        with self._reading() as connection:
            if schema.current_version(connection) == schema.HEAD:
                return
        with self._writing() as connection:
            self._make_devpi_tables(connection)
            schema.upgrade(connection)

    def version(self) -> str | None:
        """Return the version of our tables, or None where there are none."""
        with self._reading() as connection:
            return schema.current_version(connection)

    def check_version(self) -> None:
        """Refuse a database whose tables are not the ones that we read.

        Raises TargetUnusable.
        """
        found = self.version()
        if found is None:
            raise TargetUnusable("opening of the target", "it was not made by replisync")
        if found != schema.HEAD:
            raise TargetUnusable(
                "opening of the target's database",
                f"its tables have version {found}, and this replisync reads version {schema.HEAD}",
                hint="use the replisync that wrote it; a command that writes brings older ones up to date",
            )

    def restore_version(self) -> bool:
        """Write down again of which version our tables are, where that is lost and they are the newest's.

        Returns whether it was lost, and is written down.
        """
        if not t.metadata.tables.keys().isdisjoint(self.missing_objects()):
            return False
        with self._writing() as connection:
            return schema.note_version(connection)

    def clear(self) -> None:
        """Forget all that a clone brought, in one transaction; the runs are remembered."""
        with self._writing() as connection:
            for table in (*t.devpi_metadata.sorted_tables, *t.metadata.sorted_tables):
                if table is not t.runs:
                    connection.execute(table.delete())
            self._finish_rows(connection, -1)

    # Position and history.

    def last_serial(self) -> int:
        """Return the last serial of the changelog, which is the target's position; -1 where it is empty."""
        with self._reading() as connection:
            return self._last_serial(connection)

    def _last_serial(self, connection: Connection) -> int:
        found = connection.execute(select(func.max(t.changelog.c.serial))).scalar()
        return -1 if found is None else int(found)

    def check_own(self) -> None:
        """Make sure that nobody but replisync wrote to the changelog.

        Raises ForeignWriter.
        """
        with self._reading() as connection:
            self._check_own(connection, self._last_serial(connection))

    @staticmethod
    def _check_own(connection: Connection, last: int) -> None:
        # Each commit of ours ends with a row of the timeline, so the last one is at our last serial.
        own = connection.execute(select(func.max(t.timeline.c.serial))).scalar()
        if last != (-1 if own is None else own):
            raise ForeignWriter(
                "writing to the target",
                f"its changelog ends at serial {last}, and our last commit was {own}",
            )

    def entry_data(self, serial: int) -> bytes | None:
        """Return the stored bytes of an entry, or None where there is none."""
        with self._reading() as connection:
            return self._entry_data(connection, serial)

    def _entry_data(self, connection: Connection, serial: int) -> bytes | None:
        query = select(t.changelog.c.data).where(t.changelog.c.serial == serial)
        found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def primary_entry(self, serial: int) -> bytes | None:
        """Return the primary's bytes of an entry: what is stored, unless that is known to be another."""
        query = select(t.tip.c.data).where(t.tip.c.serial == serial)
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return self.entry_data(serial) if found is None else bytes(found)

    @staticmethod
    def _put_tip(connection: Connection, serial: int, data: bytes) -> None:
        connection.execute(t.tip.delete())
        connection.execute(insert(t.tip).values(serial=serial, data=data))

    def put_tip(self, tip: tuple[int, bytes] | None) -> None:
        """Keep the primary's bytes of an entry, where ours are others; None for no such entry."""
        with self._writing() as connection:
            connection.execute(t.tip.delete())
            if tip is not None:
                self._put_tip(connection, *tip)

    def serials_of(self, relpaths: Iterable[str]) -> dict[str, int]:
        """Return the serials that last changed some keys; those that never were are left out."""
        found: dict[str, int] = {}
        with self._reading() as connection:
            for paths in chunks(relpaths):
                query = select(t.kv.c.key, t.kv.c.serial).where(t.kv.c.key.in_(paths))
                found |= {row.key: row.serial for row in connection.execute(query)}
        return found

    def value(self, relpath: str) -> Any:
        """Return the latest value of a key of READ_KEYNAMES; None where it is deleted or was never there."""
        with self._reading() as connection:
            query = select(t.kv.c.serial).where(t.kv.c.key == relpath)
            serial = connection.execute(query).scalar()
            if serial is None:
                return None
            data = self._entry_data(connection, serial)
        change = parse_stored(serial, data or b"", kinds=READ_KEYNAMES).changes.get(relpath)
        return None if change is None else change.value

    def index_type(self, index: str) -> str | None:
        """Return the type of the index `user/index` as of our last serial; None where there is none."""
        return index_type(self.value(user_key(index)), index)

    # The commit.

    def apply(self, commit: Commit, primary_serial: int, now: str) -> bool:
        """Make a batch true in one transaction; return whether moves on disk are now pending.

        primary_serial: where the primary is, as far as we know.
        now: the wall time, RFC 3339.
        Raises ForeignWriter where the target's last serial is not the one before the batch.
        """
        batch = commit.batch
        with self._writing() as connection:
            last = self._last_serial(connection)
            if last != batch.first - 1:
                raise ForeignWriter(
                    "commit of a batch",
                    f"the target is at serial {last}, where we left it at {batch.first - 1}",
                    serial=batch.first,
                )
            self._check_own(connection, last)
            self._write_rows(connection, batch.rows)
            self._write_keys(connection, ((key, name, serial) for key, (name, serial) in batch.keys.items()))
            moves = self._update_ledger(connection, commit)
            connection.execute(insert(t.timeline).values(serial=batch.last, committed_at=now))
            original = batch.entries[-1].original
            if original is not None:
                self._put_tip(connection, batch.last, original)
            self._put_contact(connection, primary_serial, batch.last, now)
            self._finish_rows(connection, batch.last)
            return moves

    def rewind(self, commit: Commit, serial: int) -> None:
        """Make an older serial the last one, in one transaction.

        commit: its batch is the one that takes back what is behind `serial`; what it says of files is made
            true as in `apply`.
        Raises ForeignWriter where the target's last serial is not the one before the batch's, TargetUnusable
        where our history does not tell what was before.
        """
        with self._writing() as connection:
            last = self._last_serial(connection)
            if last != commit.batch.last - 1:
                raise ForeignWriter("rewinding", f"the target is at serial {last} meanwhile")
            self._check_own(connection, last)
            undo.undo_keys(connection, last, serial, self._write_keys)
            undo.cut(connection, serial)
            self._update_ledger(connection, commit)
            self._finish_rows(connection, serial)

    def mend(self, wrong: mending.Mending, now: str) -> None:
        """Set rows right, in one transaction; the changelog's end is then our last commit."""
        with self._writing() as connection:
            writers = mending.Writers(self._write_rows, self._write_keys, self._write_files)
            last = mending.write(connection, wrong, writers, now)
            if wrong.faults:
                self._put_faults(connection, wrong.faults)
            self._finish_rows(connection, last)

    def restore_schema(self) -> None:
        """Make what devpi-server makes in a database and is not there, and our own tables, without rows."""
        with self._writing() as connection:
            self._make_devpi_tables(connection)
            # Without its row that of the source is of no use.
            for table in t.metadata.sorted_tables:
                if table is not t.source:
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in table.indexes:
                        connection.execute(CreateIndex(index, if_not_exists=True))
            self._finish_rows(connection, self._last_serial(connection))

    def lose_files(self, faults: Iterable[Fault]) -> None:
        """Remember that files which were here are not, and cannot be had now.

        What is in their places is to be put aside; `pending` then has it.
        """
        lost = list(faults)
        with self._writing() as connection:
            self._put_leftovers(connection, (fault.relpath for fault in lost))
            for fault in lost:
                here = update(t.files).where(t.files.c.relpath == fault.relpath)
                connection.execute(here.values(state=WANTED, size=None))
                self._put_faults(connection, [fault])

    def put_leftovers(self, relpaths: Iterable[str]) -> None:
        """Demand that files which no key names are put aside; `pending` then has them."""
        with self._writing() as connection:
            self._put_leftovers(connection, relpaths)

    @staticmethod
    def _put_leftovers(connection: Connection, relpaths: Iterable[str]) -> None:
        for paths in chunks(relpaths):
            connection.execute(t.pending.delete().where(t.pending.c.relpath.in_(paths)))
            rows = [{"relpath": path, "serial": -1, "action": "drop", "staged": None} for path in paths]
            connection.execute(insert(t.pending), rows)

    def entries_behind(self, serial: int, before: int) -> list[tuple[int, bytes]]:
        """Return entries behind `serial`, the last ones below `before` first, a bounded number of them."""
        with self._reading() as connection:
            return undo.entries_behind(connection, serial, before)

    def commit_of(self, serial: int) -> tuple[int, int]:
        """Return the last serial of the commit that has a serial, and of the commit before; -1 for none."""
        column = t.timeline.c.serial
        with self._reading() as connection:
            before = connection.execute(select(func.max(column)).where(column < serial)).scalar()
            of_it = connection.execute(select(func.min(column)).where(column >= serial)).scalar()
        return (serial if of_it is None else of_it), (-1 if before is None else before)

    def _update_ledger(self, connection: Connection, commit: Commit) -> bool:
        batch = commit.batch
        moves: list[dict[str, Any]] = [
            {"relpath": path, "serial": batch.last, "action": "replace", "staged": name}
            for path, name in commit.staged.items()
        ]
        moves += [
            {"relpath": path, "serial": batch.changed_file(path), "action": "drop", "staged": None}
            for path in commit.leaving
        ]
        for paths in chunks(batch.dropped):
            connection.execute(t.files.delete().where(t.files.c.relpath.in_(paths)))
        for paths in chunks([*batch.dropped, *commit.present, *commit.absent]):
            connection.execute(t.faults.delete().where(t.faults.c.relpath.in_(paths)))
        self._write_files(connection, map(self._ledger_row(commit), batch.wanted.values()))
        if commit.faults:
            self._put_faults(connection, commit.faults)
        # What is wanted again must not be moved away any more.
        for paths in chunks([*batch.wanted, *(move["relpath"] for move in moves)]):
            connection.execute(t.pending.delete().where(t.pending.c.relpath.in_(paths)))
        if moves:
            connection.execute(insert(t.pending), moves)
        return bool(moves)

    @staticmethod
    def _ledger_row(commit: Commit) -> Callable[[WantedFile], FileRow]:
        def row(file: WantedFile) -> FileRow:
            size, digest = commit.present.get(file.relpath), str(file.digest or "")
            if size is not None:
                return file.relpath, file.serial, digest, PRESENT, size, None
            reason = commit.absent.get(file.relpath)
            state = WANTED if reason is None else ABSENT
            return file.relpath, file.serial, digest, state, None, reason or UNASKED

        return row

    # Moves on disk that follow a commit.

    def pending(self) -> list[Pending]:
        """Return the moves on disk that committed serials still demand.

        A file that came for a serial which is committed without it is to be dropped, as one of no serial, and
        one that came for a rewind which never was committed is to be discarded: it is a copy.
        What the ledger has as present is never dropped, whatever is written here.
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
        """Remember which files take places before the commit that names them.

        coming: the serial that names them, by relpath; -1 for that of a rewind. Those that the ledger has
            already are left out.
        Who finds one of them after a crash then knows that it belongs to a serial to come.
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
            for paths in chunks(new):
                connection.execute(t.pending.delete().where(t.pending.c.relpath.in_(paths)))
            rows_of_them = [
                {"relpath": path, "serial": serial, "action": ARRIVE, "staged": None}
                for path, serial in new.items()
            ]
            connection.execute(insert(t.pending), rows_of_them)

    def forget_false_drops(self) -> None:
        """Forget that files are to be dropped which must be here."""
        present = select(t.files.c.relpath).where(t.files.c.state == PRESENT)
        false = and_(t.pending.c.action == "drop", t.pending.c.relpath.in_(present))
        with self._writing() as connection:
            connection.execute(t.pending.delete().where(false))

    def settle(self, done: list[Pending], retained: list[dict[str, Any]]) -> None:
        """Forget moves that are done, and remember what they put aside."""
        with self._writing() as connection:
            for paths in chunks(move.relpath for move in done):
                connection.execute(t.pending.delete().where(t.pending.c.relpath.in_(paths)))
            for row in retained:
                connection.execute(t.retained.delete().where(t.retained.c.stored_as == row["stored_as"]))
                connection.execute(insert(t.retained).values(**row))

    def retained_beyond(self, now: Moment, seconds: float) -> list[str]:
        """Return the names of what is retained for at least so long, whatever the system clock did meanwhile.

        seconds: of lived time, which is counted up to `now` by this. Where nothing is retained there is
            nothing to count, and nothing is written.
        """
        with self._reading() as connection:
            if connection.execute(select(t.retained.c.stored_as).limit(1)).first() is None:
                return []
        with self._writing() as connection:
            return ageing.retained_beyond(connection, now, seconds)

    def forget_retained(self, names: list[str]) -> None:
        """Forget what was put aside under these names."""
        with self._writing() as connection:
            for some in chunks(names):
                connection.execute(t.retained.delete().where(t.retained.c.stored_as.in_(some)))

    def retained_of(self, relpaths: Iterable[str]) -> list[Retained]:
        """Return what was put aside of some files, the earliest serial first."""
        found: list[Retained] = []
        with self._reading() as connection:
            for paths in chunks(relpaths):
                query = select(t.retained).where(t.retained.c.relpath.in_(paths))
                rows = connection.execute(query.order_by(t.retained.c.serial, t.retained.c.retained_at))
                found += [Retained(**row) for row in rows.mappings()]
        return found

    def retained_beyond_last(self) -> list[Retained]:
        """Return what was put aside by serials that a rewind took back, or that belongs to none of them."""
        with self._reading() as connection:
            beyond = t.retained.c.serial > self._last_serial(connection)
            nameless = t.retained.c.stored_as.startswith("-1-")
            rows = connection.execute(select(t.retained).where(or_(beyond, nameless)))
            return [Retained(**row) for row in rows.mappings()]

    def set_apart(self, names: Mapping[str, str]) -> None:
        """Remember that what was put aside has new names, and belongs to no serial of this history."""
        with self._writing() as connection:
            for name, new in names.items():
                here = update(t.retained).where(t.retained.c.stored_as == name)
                connection.execute(here.values(stored_as=new, serial=-1))

    # The ledger of files.

    def wanted_indexes(self) -> list[str]:
        """Return the indexes, as `user/index`, that have files which are not here yet."""
        return self._indexes_of(t.files.c.state == WANTED)

    def _indexes_of(self, condition: ColumnElement[bool]) -> list[str]:
        # From index to index: all relpaths at once would grow with the number of files.
        found: list[str] = []
        after = ""
        with self._reading() as connection:
            while True:
                query = select(func.min(t.files.c.relpath)).where(condition, t.files.c.relpath > after)
                relpath = connection.execute(query).scalar()
                if relpath is None:
                    return found
                found.append(index_of(relpath))
                after = f"{found[-1]}0"  # "0" is the character behind "/"

    def missing_private_files(self) -> int:
        """Count the files of private stages that the live keys demand and that are not here."""
        # Those that nobody can have count too: a live key without its file stops devpi-export.
        missing = t.files.c.state != PRESENT
        private = [
            index for index in self._indexes_of(missing) if self.index_type(index) not in (None, "mirror")
        ]
        query = select(func.count()).select_from(t.files).where(missing)
        with self._reading() as connection:
            return sum(connection.execute(query.where(self._inside(index))).scalar_one() for index in private)

    @staticmethod
    def _inside(index: str) -> ColumnElement[bool]:
        # "0" is the character behind "/".
        return and_(t.files.c.relpath > f"{index}/", t.files.c.relpath < f"{index}0")

    def wanted_files(self, index: str, after: str, limit: int) -> list[WantedFile]:
        """Return up to `limit` files of an index that are not here yet, by relpath, after `after`."""
        files = t.files.c
        query = (
            select(files.relpath, files.serial, files.digest)
            .where(files.state == WANTED, files.relpath > after, self._inside(index))
            .order_by(files.relpath)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [WantedFile(path, serial, Digest.parse(digest)) for path, serial, digest in rows]

    def wanted_file(self, relpath: str) -> WantedFile | None:
        """Return a file of the ledger that is not here yet; None where it is, or is no longer demanded."""
        files = t.files.c
        query = select(files.serial, files.digest).where(files.relpath == relpath, files.state == WANTED)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else WantedFile(relpath, row.serial, Digest.parse(row.digest))

    def forgotten_files(self, after: str, limit: int) -> list[WantedFile]:
        """Return up to `limit` files behind `after` that are neither here nor among the faults."""
        files = t.files.c
        query = (
            select(files.relpath, files.serial, files.digest)
            .where(
                files.state == WANTED,
                files.relpath > after,
                files.relpath.not_in(select(t.faults.c.relpath)),
            )
            .order_by(files.relpath)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [WantedFile(path, serial, Digest.parse(digest)) for path, serial, digest in rows]

    def files_arrived(
        self,
        present: Mapping[str, int],
        absent: Mapping[str, str] | None = None,
        faults: tuple[Fault, ...] = (),
    ) -> None:
        """Record what became of wanted files: in place (with sizes), absent in order (and why), or failed."""
        absent = absent or {}
        with self._writing() as connection:
            self._mark_present(connection, present)
            for relpath, reason in absent.items():
                here = update(t.files).where(t.files.c.relpath == relpath)
                connection.execute(here.values(state=ABSENT, size=None, reason=reason))
            for paths in chunks([*present, *absent]):
                connection.execute(t.faults.delete().where(t.faults.c.relpath.in_(paths)))
            if faults:
                self._put_faults(connection, faults)

    def leave_files(self, relpaths: Iterable[str]) -> None:
        """Remember that files are not here because nobody asked for them."""
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
        """Return the files that could not be had, by relpath."""
        return self._faults(select(t.faults))

    def faults_of(self, relpaths: Iterable[str]) -> dict[str, Fault]:
        """Return those of some files that could not be had, by relpath."""
        found: dict[str, Fault] = {}
        for paths in chunks(relpaths):
            some = self._faults(select(t.faults).where(t.faults.c.relpath.in_(paths)))
            found |= {fault.relpath: fault for fault in some}
        return found

    def faults_due(self, now: str, latest: str, limit: int) -> dict[str, Fault]:
        """Return up to `limit` of them, by relpath, whose next try has come, or would come after `latest`."""
        when = t.faults.c.next_try
        due = self._faults(select(t.faults).where((when <= now) | (when > latest)).limit(limit))
        return {fault.relpath: fault for fault in due}

    def _faults(self, query: Select[Any]) -> list[Fault]:
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.faults.c.relpath))
            return [Fault(r.relpath, r.serial, r.kind, r.reason, r.tries, r.next_try) for r in rows]

    def fault_count(self) -> int:
        """Count the files that could not be had."""
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(t.faults)).scalar_one())

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        """Remember files that could not be had; one that is known counts another try."""
        with self._writing() as connection:
            self._put_faults(connection, faults)

    def _put_faults(self, connection: Connection, faults: Iterable[Fault]) -> None:
        for fault in faults:
            ledger.fault_tells(connection, fault.relpath)
            known = select(t.faults.c.tries).where(t.faults.c.relpath == fault.relpath)
            tries = connection.execute(known).scalar() or 0
            connection.execute(t.faults.delete().where(t.faults.c.relpath == fault.relpath))
            connection.execute(
                insert(t.faults).values(
                    relpath=fault.relpath,
                    serial=fault.serial,
                    kind=fault.kind,
                    reason=fault.reason,
                    tries=tries + fault.tries,
                    next_try=fault.next_try,
                )
            )

    def change_faults(self, values: dict[str, Any]) -> int:
        """Set columns of all faults; return how many there are."""
        with self._writing() as connection:
            return connection.execute(update(t.faults).values(**values)).rowcount

    def clear_faults(self, relpaths: Iterable[str]) -> None:
        """Forget faults; what is still missing is to be asked for."""
        with self._writing() as connection:
            for paths in chunks(relpaths):
                ledger.forget_faults(connection, t.faults.c.relpath.in_(paths))

    # Where from, when, how far.

    def source(self) -> Source | None:
        """Return where the data comes from, or None where no seeding has begun."""
        attempted, anew = "reading of where the target comes from", "clone anew into an empty serverdir"
        try:
            with self._reading() as connection:
                row = connection.execute(select(t.source)).mappings().first()
        except UnreadableText as err:
            raise TargetUnusable(attempted, err.why, hint=anew) from err
        if row is None:
            return None
        for column in t.source.columns:
            # SQLite stores any kind of value in any column.
            value = row[column.name]
            if not (value is None and column.nullable) and not isinstance(value, column.type.python_type):
                raise TargetUnusable(attempted, f"its {column.name} is {type(value).__name__}", hint=anew)
        return Source(**{k: v for k, v in row.items() if k != "id"})

    def identity(self) -> Identity | None:
        """Return whose the target is, whatever the version of our tables; None where no seeding has begun."""
        with self._reading() as connection:
            if schema.current_version(connection) is None:
                return None
            columns = (t.source.c.uuid, t.source.c.primary_uuid, t.source.c.primary_url, t.source.c.seed_kind)
            row = connection.execute(select(*columns)).first()
        return None if row is None else Identity(*row)

    def put_source(self, source: Source, tip: bytes | None = None) -> None:
        """Remember where the data comes from.

        tip: the primary's bytes of the entry at our last serial, where ours are others.
        """
        with self._writing() as connection:
            if tip is not None:
                self._put_tip(connection, self._last_serial(connection), tip)
            connection.execute(t.source.delete())
            connection.execute(insert(t.source).values(id=1, **asdict(source)))

    def contact(self) -> Contact | None:
        """Return when the primary was last heard of."""
        with self._reading() as connection:
            row = connection.execute(select(t.contact)).first()
        return None if row is None else Contact(row.contacted_at, row.primary_serial, row.in_sync_at)

    def put_contact(self, primary_serial: int, now: str) -> None:
        """Remember that the primary was heard of, and whether we are where it is."""
        with self._writing() as connection:
            self._put_contact(connection, primary_serial, self._last_serial(connection), now)

    def put_agreement(self, primary_serial: int, now: str) -> None:
        """Remember that the primary was heard of, and that its history is ours."""
        with self._writing() as connection:
            self._put_contact(connection, primary_serial, self._last_serial(connection), now)
            connection.execute(t.divergence.delete())

    def divergence(self) -> Divergence | None:
        """Return how the primary's history was found not to be ours; None where it is."""
        with self._reading() as connection:
            row = connection.execute(select(t.divergence)).mappings().first()
        return None if row is None else Divergence(**{k: v for k, v in row.items() if k != "id"})

    def put_divergence(self, divergence: Divergence) -> None:
        """Remember that the primary's history is not ours."""
        with self._writing() as connection:
            connection.execute(t.divergence.delete())
            connection.execute(insert(t.divergence).values(id=1, **asdict(divergence)))

    @staticmethod
    def _put_contact(connection: Connection, primary_serial: int, ours: int, now: str) -> None:
        in_sync_at = now if ours >= primary_serial else None
        values = {"contacted_at": now, "primary_serial": primary_serial}
        if in_sync_at is not None:
            values["in_sync_at"] = in_sync_at
        if not connection.execute(update(t.contact).values(**values)).rowcount:
            connection.execute(insert(t.contact).values(id=1, **values))

    def begin_run(self, command: str, now: str) -> int:
        """Remember that a command began to work; return the number of its run."""
        with self._writing() as connection:
            # Whoever holds the lock knows that no other run goes on.
            connection.execute(update(t.runs).where(t.runs.c.outcome == "running").values(outcome="killed"))
            newest = select(func.max(t.runs.c.id)).scalar_subquery()
            connection.execute(t.runs.delete().where(t.runs.c.id <= newest - _RUNS_KEPT))
            row = insert(t.runs).values(
                command=command, started=now, outcome="running", from_serial=self._last_serial(connection)
            )
            key = connection.execute(row).inserted_primary_key
            return int(key[0]) if key else 0

    def end_run(self, number: int, **values: Any) -> None:
        """Remember how a run ended; its last serial is the target's."""
        with self._writing() as connection:
            values["to_serial"] = self._last_serial(connection)
            connection.execute(update(t.runs).where(t.runs.c.id == number).values(**values))

    def last_run(self) -> Run | None:
        """Return the latest run."""
        query = select(t.runs).order_by(t.runs.c.id.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else Run(**{k: v for k, v in row.items() if k != "id"})

    def last_verification(self) -> Verification | None:
        """Return what the last verification found."""
        with self._reading() as connection:
            row = connection.execute(select(t.verify)).mappings().first()
        return None if row is None else Verification(**{k: v for k, v in row.items() if k != "id"})

    def put_verification(self, done: Verification) -> None:
        """Remember what a verification found."""
        with self._writing() as connection:
            connection.execute(t.verify.delete())
            connection.execute(insert(t.verify).values(id=1, **asdict(done)))
