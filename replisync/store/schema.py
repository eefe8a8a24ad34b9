"""Our tables' version: which one a database has, and bringing it to the one that we know.

The migrations are Alembic's. In a checkout they lie at the top level, in an installation inside the
package.
"""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from replisync.errors import TargetUnusable

# The newest revision below migrations/versions; a test compares. Known here so that a command that finds
# everything up to date need not load Alembic.
HEAD = "0004"

VERSION_TABLE = "replisync_schema"


def migrations_folder() -> Path:
    """Return the folder of the migrations."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def current_version(connection: Connection) -> str | None:
    """Return the revision that the database has, or None where our tables are missing."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return None if version is None else str(version)


def upgrade(connection: Connection, *, revision: str = HEAD) -> None:
    """Bring our tables to `revision` within the connection's transaction.

    Raises TargetUnusable where the database was written by a newer replisync.
    """
    current = current_version(connection)
    if current == revision:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise TargetUnusable(
            "opening of the target's database",
            f"its tables have version {current}, which is newer than this replisync knows",
            hint="use the replisync that wrote it, or a newer one",
        )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(config, revision)
