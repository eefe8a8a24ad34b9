"""What verifications found and no later one cleared: a row per level, with kinds and names."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("replisync_verify", sa.Column("found", sa.Text))
    op.execute(
        "UPDATE replisync_verify SET id = "
        "CASE level WHEN 'quick' THEN 1 WHEN 'files' THEN 2 WHEN 'full' THEN 3 ELSE 4 END"
    )


def downgrade() -> None:
    """Take the tables back to the revision before."""
    op.execute("DELETE FROM replisync_verify WHERE id > (SELECT min(id) FROM replisync_verify)")
    op.execute("UPDATE replisync_verify SET id = 1")
    with op.batch_alter_table("replisync_verify") as table:
        table.drop_column("found")
