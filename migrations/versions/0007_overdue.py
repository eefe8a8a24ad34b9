"""When retained files were first found over their retention time, instead of how long the standby ran."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    with op.batch_alter_table("replisync_retained") as table:
        table.drop_column("lived_at")
        table.add_column(sa.Column("overdue_at", sa.String(32)))
    op.drop_table("replisync_lived")


def downgrade() -> None:
    """Take the tables back to the revision before."""
    op.create_table(
        "replisync_lived",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("lived", sa.Float, nullable=False),
        sa.Column("wall_at", sa.String(32), nullable=False),
        sa.Column("boot", sa.String(64)),
        sa.Column("boottime", sa.Float, nullable=False),
    )
    with op.batch_alter_table("replisync_retained") as table:
        table.drop_column("overdue_at")
        table.add_column(sa.Column("lived_at", sa.Float))
