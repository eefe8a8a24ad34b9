"""What the last verification found, and why a seed took the way that it took."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "replisync_verify",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("started", sa.String(32), nullable=False),
        sa.Column("finished", sa.String(32), nullable=False),
        sa.Column("findings", sa.Integer, nullable=False),
        sa.Column("repaired", sa.Integer, nullable=False),
    )
    op.add_column("replisync_source", sa.Column("seed_reason", sa.Text))


def downgrade() -> None:
    """Take the tables back to the revision before."""
    with op.batch_alter_table("replisync_source") as table:
        table.drop_column("seed_reason")
    op.drop_table("replisync_verify")
