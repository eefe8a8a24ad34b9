"""Alembic's entry: run the migrations on the connection that replisync hands in."""

from alembic import context

from replisync.standby.database.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table="replisync_schema",
    render_as_batch=True,
    include_name=lambda name, kind, _parents: kind != "table" or str(name).startswith("replisync_"),
)
# The caller's transaction is ours too: data and schema change together or not at all.
context.run_migrations()
