"""The witnesses of entries: short digests of their stored bytes, beside the commit that wrote them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision.

    Entries that are stored already have none until they are compared with the primary's: they may be damaged.
    """
    op.add_column("replisync_timeline", sa.Column("witnesses", sa.LargeBinary))


def downgrade() -> None:
    """Take the tables back to the revision before."""
    with op.batch_alter_table("replisync_timeline") as table:
        table.drop_column("witnesses")
