"""A standby in PostgreSQL, and the checks that the oracle makes of one in SQLite."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.devpi import copy_serverdir
from tests.support.history import History
from tests.support.oracle import assert_equal_exports
from tests.support.postgres import Database
from tests.support.releases import run_tool
from tests.support.standby import Standby


@dataclass(frozen=True)
class PostgresStandby(Standby):
    """A standby whose storage is `database`; the password comes with each command."""

    database: Database

    @property
    def serial(self) -> int:
        """The last serial in its database."""
        return int(self.database.scalar("SELECT coalesce(max(serial), -1) FROM changelog"))

    @property
    def own(self) -> tuple[object, ...]:
        """The options that every command needs."""
        return ("--serverdir", self.serverdir, "--storage", f"pg8000:password={self.database.password}")

    @property
    def new(self) -> tuple[object, ...]:
        """The options of its clone."""
        secret = ("--secretfile", self.secretfile, "--primary-url", self.primary_url)
        return ("--serverdir", self.serverdir, "--storage", self.database.spec, *secret)


def history(database: Database) -> History:
    """Read devpi's tables."""
    changelog = {serial: bytes(data) for serial, data in database.query("SELECT serial, data FROM changelog")}
    rows = database.query("SELECT key, keyname, serial FROM kv")
    return History(changelog, {key: (name, serial) for key, name, serial in rows})


def sequence(database: Database) -> int:
    """Return the serial that the next write would get."""
    [[last, called]] = database.query("SELECT last_value, is_called FROM changelog_serial_seq")
    return int(last) + (1 if called else 0)


def files(database: Database) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of all files."""
    query = "SELECT path, size, octet_length(data), encode(sha256(data), 'hex') FROM files"
    found = database.query(query)
    assert all(size == length for _, size, length, _ in found), "a row's size is not that of its content"
    return {path: (size, digest) for path, size, _, digest in found}


def files_on_disk(serverdir: Path) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of all files of a serverdir with SQLite."""
    root = serverdir / "+files"
    contents = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    return {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in contents.items()}


def schema(database: Database) -> dict[str, list[Any]]:
    """Return all that devpi_postgresql makes: columns, indexes and the sequence, ours left out."""
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, ordinal_position "
        "FROM information_schema.columns WHERE table_schema = 'public'",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "sequences": "SELECT sequencename, data_type::text, min_value, max_value, increment_by, cycle "
        "FROM pg_sequences WHERE schemaname = 'public'",
    }
    found = {name: sorted(database.query(query), key=repr) for name, query in queries.items()}
    return {
        name: [row for row in rows if not row[0].startswith("replisync_")] for name, rows in found.items()
    }


def export(serverdir: Path, storage: str | None, outdir: Path) -> Path:
    """Export a copy of a serverdir, whose role devpi-export would change, and return the folder."""
    copy = copy_serverdir(serverdir, outdir.with_name(f"{outdir.name}-copy"), link_files=True)
    run_tool("devpi-export", "--serverdir", copy, *_option(storage), outdir)
    return outdir


def assert_fsck(serverdir: Path, storage: str | None, scratch: Path) -> None:
    """Check a copy of the serverdir, whose role devpi-fsck would change, with its database."""
    copy = copy_serverdir(serverdir, scratch / "fsck", link_files=True)
    run_tool("devpi-fsck", "--serverdir", copy, *_option(storage))


def assert_same_exports(
    one: Path, one_storage: str | None, other: Path, other_storage: str | None, scratch: Path
) -> None:
    """Check that the exports of two serverdirs are equal."""
    out_one = export(one, one_storage, scratch / "export-one")
    out_other = export(other, other_storage, scratch / "export-other")
    assert_equal_exports(out_one, out_other)


def _option(storage: str | None) -> tuple[str, ...]:
    return () if storage is None else ("--storage", storage)
