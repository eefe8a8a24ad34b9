"""The store's position, and the entries and keys up to it."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, insert, select

from replisync.devpi.entries import parse_stored
from replisync.devpi.keys import READ_KEYNAMES, index_type, user_key
from replisync.errors import ForeignWriter
from replisync.standby.database import tables as t
from replisync.standby.database import undo
from replisync.standby.database.engine import Database, askable, chunks


class History(Database):
    """The changelog of one target and the latest values of its keys; only `Store` commits to it."""

    def last_serial(self) -> int:
        """Return the last serial of the changelog, which is the target's position; -1 if it is empty."""
        with self._reading() as connection:
            return self._last_serial(connection)

    def _last_serial(self, connection: Connection) -> int:
        found = connection.execute(select(func.max(t.changelog.c.serial))).scalar()
        return -1 if found is None else int(found)

    def own_serial(self) -> int:
        """Return the last serial; check that only replisync wrote to the changelog.

        Raises ForeignWriter.
        """
        with self._reading() as connection:
            return self._own_serial(connection)

    def _own_serial(self, connection: Connection) -> int:
        # Each commit of ours ends with a row of the timeline, so the last one is at our last serial.
        last = self._last_serial(connection)
        own = connection.execute(select(func.max(t.timeline.c.serial))).scalar()
        if last != (-1 if own is None else own):
            raise ForeignWriter(
                "cannot write to the target",
                f"its changelog ends at serial {last}, but our last commit was {own}",
            )
        return last

    def entry_data(self, serial: int) -> bytes | None:
        """Return the stored bytes of an entry, or None."""
        with self._reading() as connection:
            return self._entry_data(connection, serial)

    def _entry_data(self, connection: Connection, serial: int) -> bytes | None:
        query = select(t.changelog.c.data).where(t.changelog.c.serial == serial)
        found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def primary_entry(self, serial: int) -> bytes | None:
        """Return the primary's bytes of an entry: the stored ones, unless they are known to differ."""
        query = select(t.tip.c.data).where(t.tip.c.serial == serial)
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return self.entry_data(serial) if found is None else bytes(found)

    @staticmethod
    def _put_tip(connection: Connection, serial: int, data: bytes) -> None:
        connection.execute(t.tip.delete())
        connection.execute(insert(t.tip).values(serial=serial, data=data))

    def put_tip(self, tip: tuple[int, bytes] | None) -> None:
        """Store the primary's bytes of an entry, if ours differ; None for no such entry."""
        with self._writing() as connection:
            connection.execute(t.tip.delete())
            if tip is not None:
                self._put_tip(connection, *tip)

    def serials_of(self, relpaths: Iterable[str]) -> dict[str, int]:
        """Return the serials that last changed some keys; omit keys that never were."""
        found: dict[str, int] = {}
        with self._reading() as connection:
            for paths in chunks(askable(connection, relpaths)):
                query = select(t.kv.c.key, t.kv.c.serial).where(t.kv.c.key.in_(paths))
                found |= {row.key: row.serial for row in connection.execute(query)}
        return found

    def value(self, relpath: str) -> Any:
        """Return the latest value of a key of READ_KEYNAMES; None if it is deleted or never existed."""
        with self._reading() as connection:
            query = select(t.kv.c.serial).where(t.kv.c.key.in_(askable(connection, [relpath])))
            serial = connection.execute(query).scalar()
            if serial is None:
                return None
            data = self._entry_data(connection, serial)
        change = parse_stored(serial, data or b"", kinds=READ_KEYNAMES).changes.get(relpath)
        return None if change is None else change.value

    def index_type(self, index: str) -> str | None:
        """Return the type of the index `user/index` as of our last serial, or None."""
        return index_type(self.value(user_key(index)), index)

    def entries_behind(self, serial: int, before: int) -> list[tuple[int, bytes]]:
        """Return entries after `serial`, the last ones below `before` first, a limited number of them."""
        with self._reading() as connection:
            return undo.entries_behind(connection, serial, before)

    def commit_of(self, serial: int) -> tuple[int, int]:
        """Return the last serial of the commit that has a serial, and of the commit before; -1 for none."""
        column = t.timeline.c.serial
        with self._reading() as connection:
            before = connection.execute(select(func.max(column)).where(column < serial)).scalar()
            of_it = connection.execute(select(func.min(column)).where(column >= serial)).scalar()
        return (serial if of_it is None else of_it), (-1 if before is None else before)
