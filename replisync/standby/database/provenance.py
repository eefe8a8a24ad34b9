"""The source of the target's data, the last contact with the primary, and the records of runs and checks."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from replisync.changelog.records import (
    LEVELS,
    Contact,
    Divergence,
    Identity,
    Lineage,
    Run,
    Source,
    Verification,
)
from replisync.errors import TargetUnusable, UnreadableText
from replisync.standby.database import schema
from replisync.standby.database import tables as t
from replisync.standby.database.history import History

# The number of recorded runs; a catchup each minute would fill the table otherwise.
_RUNS_KEPT = 1000


class Provenance(History):
    """Records about the target, apart from its data."""

    def source(self) -> Source | None:
        """Return the source of the data; None if no seeding has begun."""
        attempted, anew = "cannot read where the target comes from", "clone into an empty serverdir"
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
        """Return the target's identity, for any version of our tables; None if no seeding has begun."""
        with self._reading() as connection:
            if schema.current_version(connection) is None:
                return None
            columns = (t.source.c.uuid, t.source.c.primary_uuid, t.source.c.primary_url, t.source.c.seed_kind)
            row = connection.execute(select(*columns)).first()
        return None if row is None else Identity(*row)

    def put_source(self, source: Source, tip: bytes | None = None) -> None:
        """Record the source of the data.

        tip: the primary's bytes of the entry at our last serial, if ours differ.
        """
        with self._writing() as connection:
            if tip is not None:
                self._put_tip(connection, self._last_serial(connection), tip)
            connection.execute(t.source.delete())
            connection.execute(insert(t.source).values(id=1, **asdict(source)))

    def lineage(self, source: Source) -> list[Lineage]:
        """Return the primaries of the history, the first one first."""
        with self._reading() as connection:
            rows = connection.execute(select(t.lineage).order_by(t.lineage.c.from_serial)).all()
        found = [Lineage(row.uuid, row.from_serial, row.since) for row in rows]
        return found or [Lineage(source.primary_uuid, 0, source.seed_started)]

    def adopt_primary(self, source: Source, now: str) -> None:
        """Record that a server with another UUID continues the history of the primary.

        source: with the new UUID.
        """
        with self._writing() as connection:
            former = connection.execute(select(t.source.c.primary_uuid, t.source.c.seed_started)).one()
            if not connection.execute(select(func.count()).select_from(t.lineage)).scalar():
                self._put_lineage(connection, Lineage(former.primary_uuid, 0, former.seed_started))
            first = self._last_serial(connection) + 1
            connection.execute(t.lineage.delete().where(t.lineage.c.from_serial >= first))
            self._put_lineage(connection, Lineage(source.primary_uuid, first, now))
            connection.execute(update(t.source).values(asdict(source)))

    @staticmethod
    def _put_lineage(connection: Connection, one: Lineage) -> None:
        connection.execute(insert(t.lineage).values(asdict(one)))

    def contact(self) -> Contact | None:
        """Return the last contact with the primary."""
        with self._reading() as connection:
            row = connection.execute(select(t.contact)).first()
        return None if row is None else Contact(row.contacted_at, row.primary_serial, row.in_sync_at)

    def put_contact(self, primary_serial: int, now: str) -> None:
        """Record a contact with the primary, and whether we are current."""
        with self._writing() as connection:
            self._put_contact(connection, primary_serial, self._last_serial(connection), now)

    def put_agreement(self, primary_serial: int, now: str) -> int:
        """Record a contact with the primary, whose history is ours.

        Only this lowers the known serial of the primary. Returns the one known before.
        """
        with self._writing() as connection:
            known = self._known_serial(connection)
            connection.execute(update(t.contact).values(primary_serial=primary_serial))
            self._put_contact(connection, primary_serial, self._last_serial(connection), now)
            connection.execute(t.divergence.delete())
            return known

    def raise_known_serial(self, primary_serial: int) -> None:
        """Record that the primary has reached a serial, as another server showed."""
        with self._writing() as connection:
            if primary_serial > self._known_serial(connection):
                connection.execute(update(t.contact).values(primary_serial=primary_serial))

    def divergence(self) -> Divergence | None:
        """Return the recorded divergence from the primary, or None."""
        with self._reading() as connection:
            row = connection.execute(select(t.divergence)).mappings().first()
        return None if row is None else Divergence(**{k: v for k, v in row.items() if k != "id"})

    def put_divergence(self, divergence: Divergence) -> None:
        """Record a divergence from the primary."""
        with self._writing() as connection:
            connection.execute(t.divergence.delete())
            connection.execute(insert(t.divergence).values(id=1, **asdict(divergence)))

    @staticmethod
    def _known_serial(connection: Connection) -> int:
        known = connection.execute(select(t.contact.c.primary_serial)).scalar()
        return known if isinstance(known, int) else -1  # SQLite stores any kind of value

    @classmethod
    def _put_contact(cls, connection: Connection, primary_serial: int, ours: int, now: str) -> None:
        # In one history it only grows: the primary has any serial that it has ever shown.
        primary_serial = max(primary_serial, cls._known_serial(connection))
        in_sync_at = now if ours >= primary_serial else None
        values = {"contacted_at": now, "primary_serial": primary_serial}
        if in_sync_at is not None:
            values["in_sync_at"] = in_sync_at
        if not connection.execute(update(t.contact).values(**values)).rowcount:
            connection.execute(insert(t.contact).values(id=1, **values))

    def begin_run(self, command: str, now: str) -> int:
        """Record that a command began to work; return the number of its run."""
        with self._writing() as connection:
            # We hold the lock, so no other run is active.
            connection.execute(update(t.runs).where(t.runs.c.outcome == "running").values(outcome="killed"))
            newest = select(func.max(t.runs.c.id)).scalar_subquery()
            connection.execute(t.runs.delete().where(t.runs.c.id <= newest - _RUNS_KEPT))
            row = insert(t.runs).values(
                command=command, started=now, outcome="running", from_serial=self._last_serial(connection)
            )
            key = connection.execute(row).inserted_primary_key
            return int(key[0]) if key else 0

    def put_run(self, number: int, **values: Any) -> None:
        """Record how far a run is, or how it ended; its last serial is the target's."""
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
        """Return the last verification."""
        return next(iter(self.verifications()), None)

    def verifications(self) -> list[Verification]:
        """Return the last verification, and those of higher levels with remaining findings."""
        with self._reading() as connection:
            return [one for _, one in self._verifications(connection)]

    def put_verification(
        self, done: Verification, left: Callable[[Verification], Verification | None]
    ) -> None:
        """Record a verification; it replaces those of its level and below.

        left: returns one of a higher level with its remaining findings, or None.
        """
        rank = LEVELS.index(done.level)
        with self._writing() as connection:
            above = [(at, left(one)) for at, one in self._verifications(connection) if at > rank]
            connection.execute(t.verify.delete())
            rows = [(rank, done), *((at, one) for at, one in above if one is not None)]
            connection.execute(insert(t.verify), [{"id": at + 1, **asdict(one)} for at, one in rows])

    @staticmethod
    def _verifications(connection: Connection) -> list[tuple[int, Verification]]:
        rows = connection.execute(select(t.verify).order_by(t.verify.c.id)).mappings()
        return [(row["id"] - 1, Verification(**{k: v for k, v in row.items() if k != "id"})) for row in rows]
