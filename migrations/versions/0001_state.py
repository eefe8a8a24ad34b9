"""The first form of replisync's own tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    path = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "replisync_source",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("primary_url", sa.Text, nullable=False),
        sa.Column("primary_uuid", sa.String(64), nullable=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("storage", sa.Text, nullable=False),
        sa.Column("seed_kind", sa.String(32), nullable=False),
        sa.Column("seed_serial", sa.Integer),
        sa.Column("seed_started", sa.String(32), nullable=False),
        sa.Column("seed_finished", sa.String(32)),
        sa.Column("promoted", sa.String(32)),
    )
    op.create_table(
        "replisync_tip",
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "replisync_contact",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("contacted_at", sa.String(32), nullable=False),
        sa.Column("primary_serial", sa.Integer, nullable=False),
        sa.Column("in_sync_at", sa.String(32)),
    )
    op.create_table(
        "replisync_divergence",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("found_at", sa.String(32), nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("fork_serial", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "replisync_runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("command", sa.String(32), nullable=False),
        sa.Column("started", sa.String(32), nullable=False),
        sa.Column("finished", sa.String(32)),
        sa.Column("from_serial", sa.Integer),
        sa.Column("to_serial", sa.Integer),
        sa.Column("files", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("local", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("seconds", sa.Float),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "replisync_timeline",
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("committed_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "replisync_files",
        sa.Column("relpath", path, primary_key=True),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("size", sa.BigInteger),
    )
    still_open = sa.text("state <> 'present'")
    op.create_index(
        "replisync_files_open_idx",
        "replisync_files",
        ["state", "relpath"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_table(
        "replisync_faults",
        sa.Column("relpath", path, primary_key=True),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try", sa.String(32)),
    )
    op.create_table(
        "replisync_pending",
        sa.Column("relpath", path, primary_key=True),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("staged", sa.Text),
    )
    op.create_table(
        "replisync_retained",
        sa.Column("stored_as", path, primary_key=True),
        sa.Column("relpath", path, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("retained_at", sa.String(32), nullable=False),
    )
    op.create_index("replisync_retained_relpath_idx", "replisync_retained", ["relpath", "serial"])


def downgrade() -> None:
    """Remove all tables."""
    names = (
        "retained",
        "pending",
        "faults",
        "files",
        "timeline",
        "runs",
        "divergence",
        "contact",
        "tip",
        "source",
    )
    for name in names:
        op.drop_table(f"replisync_{name}")
