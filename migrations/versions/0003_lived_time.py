"""How long retained files were kept, in time that was lived through instead of the system clock's."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "replisync_lived",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("lived", sa.Float, nullable=False),
        sa.Column("wall_at", sa.String(32), nullable=False),
        sa.Column("boot", sa.String(64)),
        sa.Column("boottime", sa.Float, nullable=False),
    )
    op.add_column("replisync_retained", sa.Column("lived_at", sa.Float))


def downgrade() -> None:
    """Take the tables back to the revision before."""
    with op.batch_alter_table("replisync_retained") as table:
        table.drop_column("lived_at")
    op.drop_table("replisync_lived")
