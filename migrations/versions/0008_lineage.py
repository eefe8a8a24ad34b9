"""Which server was the primary, from which serial on."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "replisync_lineage",
        sa.Column("from_serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("since", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    """Take the tables back to the revision before."""
    op.drop_table("replisync_lineage")
