"""The version of our tables: which one a database has, and the upgrade to the newest.

The migrations are Alembic's. They are at the top level of a checkout, and inside the package of an
installation.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from replisync.errors import Advice, Hint, TargetUnusable
from replisync.standby.database.tables import source

if TYPE_CHECKING:
    from alembic.config import Config

# The newest revision in migrations/versions; a test compares them. Repeated here so that a command on an
# up-to-date database need not load Alembic.
HEAD = "0008"

VERSION_TABLE = "replisync_schema"


def migrations_folder() -> Path:
    """Return the folder of the migrations."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def current_version(connection: Connection) -> str | None:
    """Return the revision of the database; None if it has no tables of ours.

    Raises TargetUnusable if our tables exist, but no record of their revision.
    """
    version = _noted_version(connection)
    if version is None and inspect(connection).has_table(source.name):
        raise TargetUnusable(
            "cannot open the target's database",
            f"its table {VERSION_TABLE}, which records the version of the others, is missing or empty",
            hint=Hint("repair it with {}", Advice("verify", repair=True)),
        )
    return version


def _noted_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return None if version is None else str(version)


def note_version(connection: Connection) -> bool:
    """Record that our tables have the newest revision, if no record exists; return whether one was missing.

    Only for databases with our tables.
    """
    if _noted_version(connection) is not None:
        return False
    from alembic import command

    command.stamp(_config(connection), HEAD)
    return True


def upgrade(connection: Connection, *, revision: str = HEAD) -> None:
    """Upgrade our tables to `revision` in the connection's transaction.

    Raises TargetUnusable if the database was written by a newer replisync.
    """
    current = current_version(connection)
    if current == revision:
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise TargetUnusable(
            "cannot open the target's database",
            f"its tables have version {current}, which is newer than this replisync knows",
            hint="use the replisync that wrote it, or a newer one",
        )
    command.upgrade(config, revision)


def _config(connection: Connection) -> "Config":
    """Return Alembic's configuration, for its migrations in the connection's transaction."""
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
