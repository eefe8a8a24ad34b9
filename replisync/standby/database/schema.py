"""Our tables' version: which one a database has, and bringing it to the one that we know.

The migrations are Alembic's. In a checkout they lie at the top level, in an installation inside the
package.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from replisync.errors import Advice, Hint, TargetUnusable
from replisync.standby.database.tables import source

if TYPE_CHECKING:
    from alembic.config import Config

# The newest revision below migrations/versions; a test compares. Known here so that a command that finds
# everything up to date need not load Alembic.
HEAD = "0006"

VERSION_TABLE = "replisync_schema"


def migrations_folder() -> Path:
    """Return the folder of the migrations."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def current_version(connection: Connection) -> str | None:
    """Return the revision that the database has, or None where our tables are missing.

    Raises TargetUnusable if they are there, and nothing says of which revision they are.
    """
    version = _noted_version(connection)
    if version is None and inspect(connection).has_table(source.name):
        raise TargetUnusable(
            "cannot open the target's database",
            f"its table {VERSION_TABLE}, which says how the others are made, is gone or empty",
            hint=Hint("repair it with {}", Advice("verify", repair=True)),
        )
    return version


def _noted_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return None if version is None else str(version)


def note_version(connection: Connection) -> bool:
    """Write down that our tables are of the newest revision, where nothing says so; return whether it was so.

    To be called where they are.
    """
    if _noted_version(connection) is not None:
        return False
    from alembic import command

    command.stamp(_config(connection), HEAD)
    return True


def upgrade(connection: Connection, *, revision: str = HEAD) -> None:
    """Bring our tables to `revision` within the connection's transaction.

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
    """Return how Alembic finds the migrations, and works within the connection's transaction."""
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
