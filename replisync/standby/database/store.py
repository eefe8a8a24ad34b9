"""The store of a target in any database: one transaction per batch.

Its parts build on one another: `database` knows transactions, `history` entries and keys, and on both build
`moves`, `files` and `provenance`. Changes of several of them at once are here. A subclass knows how to
connect, how to create devpi's tables and how to write many rows quickly.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.schema import CreateIndex, CreateTable

from replisync.changelog.plan import Batch, WantedFile
from replisync.changelog.ports import FileStore
from replisync.changelog.records import ABSENT, PRESENT, UNASKED, UNFETCHABLE, WANTED, Commit, Fault, FileRow
from replisync.changelog.witness import witness, witnesses
from replisync.errors import ForeignWriter
from replisync.standby.database import repairs, undo
from replisync.standby.database import tables as t
from replisync.standby.database import witnesses as proofs
from replisync.standby.database.engine import delete_rows
from replisync.standby.database.fileledger import FileLedger
from replisync.standby.database.moves import Moves
from replisync.standby.database.provenance import Provenance
from replisync.standby.files.disk import DiskFiles
from replisync.standby.files.survey import DiskSurvey, Survey
from replisync.standby.serverdir import Serverdir


class Store(Moves, FileLedger, Provenance):
    """The store of one target; its arguments are those of `Database`."""

    # Whether the files are rows, with none on disk.
    holds_files = False

    def files(
        self,
        serverdir: Serverdir,
        threads: int = 1,  # noqa: ARG002
        *,
        shared: bool = True,  # noqa: ARG002
        prefix: str = "",
    ) -> FileStore:
        """Return the files of the target.

        threads: the number of threads that may use them at a time.
        shared: whether a devpi-server may store files too.
        prefix: of names in the staging folder; users that work at the same time have different ones.
        """
        return DiskFiles(serverdir.files, serverdir.tmp, serverdir.retained, prefix=prefix)

    def survey(self, serverdir: Serverdir, cores: int) -> Survey:  # noqa: ARG002
        """Return the survey of the target's files, for use by as many threads as there are cores."""
        return DiskSurvey(serverdir.files)

    def apply(self, commit: Commit, primary_serial: int, now: str) -> bool:
        """Apply a batch in one transaction; return whether moves on disk are now pending.

        primary_serial: the primary's serial, as far as known.
        now: the wall time, RFC 3339.
        Raises ForeignWriter if the target's last serial is not the one before the batch.
        """
        batch = commit.batch
        with self._writing() as connection:
            last = self._own_serial(connection)
            if last != batch.first - 1:
                raise ForeignWriter(
                    "cannot commit a batch",
                    f"the target is at serial {last}, but we left it at {batch.first - 1}",
                    serial=batch.first,
                )
            self._write_rows(connection, batch.rows)
            self._write_keys(connection, ((key, name, serial) for key, (name, serial) in batch.keys.items()))
            moves = self._update_ledger(connection, commit)
            proof = witnesses(entry.data for entry in batch.entries)
            row = {"serial": batch.last, "committed_at": now, "witnesses": proof}
            connection.execute(insert(t.timeline).values(**row))
            original = batch.entries[-1].original
            if original is not None:
                self._put_tip(connection, batch.last, original)
            self._put_contact(connection, primary_serial, batch.last, now)
            self._finish_rows(connection, batch.last)
            return moves

    def rewind(self, commit: Commit, serial: int) -> None:
        """Make an older serial the last one, in one transaction.

        commit: its batch has the serials to revert, after `serial`; its files are applied as in `apply`.
        Raises ForeignWriter if the target's last serial is not the one before the batch's, TargetUnusable if
        our history is incomplete.
        """
        with self._writing() as connection:
            last = self._own_serial(connection)
            if last != commit.batch.last - 1:
                raise ForeignWriter("cannot rewind the standby", f"the target is at serial {last} meanwhile")
            undo.undo_keys(connection, last, serial, self._write_keys)
            undo.cut(connection, serial)
            self._update_ledger(connection, commit)
            self._finish_rows(connection, serial)

    def repair(self, wrong: repairs.Repairs, now: str) -> None:
        """Repair rows, in one transaction; the changelog's end is then our last commit."""
        with self._writing() as connection:
            writers = repairs.Writers(self._write_rows, self._write_keys, self._write_files)
            last = repairs.write(connection, wrong, writers, now)
            if wrong.faults:
                self._put_faults(connection, wrong.faults)
            self._finish_rows(connection, last)

    def put_witnesses(self, compared: Mapping[int, bytes]) -> None:
        """Record the witnesses of entries whose stored bytes were just compared with the primary's.

        Entries that were reverted or changed meanwhile are omitted.
        """
        if not compared:
            return
        column = t.changelog.c.serial
        with self._writing() as connection:
            query = select(column, t.changelog.c.data).where(column.between(min(compared), max(compared)))
            rows = connection.execute(query)
            proofs.put(
                connection, {s: w for s, data in rows if (w := compared.get(s)) == witness(bytes(data))}
            )

    def restore_schema(self) -> None:
        """Create devpi-server's tables and indexes that are missing, and our own tables, without rows."""
        with self._writing() as connection:
            self._make_devpi_tables(connection)
            # Without its row, the table of the source is useless.
            for table in t.metadata.sorted_tables:
                if table is not t.source:
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in table.indexes:
                        connection.execute(CreateIndex(index, if_not_exists=True))
            self._finish_rows(connection, self._last_serial(connection))

    def lose_files(self, faults: Iterable[Fault]) -> None:
        """Record that files which were present are missing, and cannot be fetched now.

        Files in their places are to be retained; `pending` then has it.
        """
        lost = list(faults)
        with self._writing() as connection:
            self._put_leftovers(connection, (fault.relpath for fault in lost))
            for fault in lost:
                here = update(t.files).where(t.files.c.relpath == fault.relpath)
                connection.execute(here.values(state=WANTED, size=None))
                self._put_faults(connection, [fault])

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
        gone = [*batch.dropped, *filter(self.holds_key, batch.pathless)]
        delete_rows(connection, t.files.c.relpath, gone)
        delete_rows(connection, t.faults.c.relpath, [*gone, *commit.present, *commit.absent])
        self._write_files(connection, map(self._ledger_row(commit), batch.wanted.values()))
        self._put_faults(connection, [*commit.faults, *self._pathless(batch)])
        # Files that are wanted again must not be moved away any more.
        delete_rows(connection, t.pending.c.relpath, [*batch.wanted, *(move["relpath"] for move in moves)])
        if moves:
            connection.execute(insert(t.pending), moves)
        return bool(moves)

    def _pathless(self, batch: Batch) -> Iterator[Fault]:
        """Yield the faults of live files without a valid path here: they are never requested."""
        for relpath, (serial, problem) in batch.pathless.items():
            if problem and self.holds_key(relpath):
                yield Fault(relpath, serial, UNFETCHABLE, problem)

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
