"""Why files are not here, beside the state that says so."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("replisync_files", sa.Column("reason", sa.Text))
    # Nobody wrote it down before, and whatever is not here may be so in order.
    op.execute(
        "UPDATE replisync_files SET reason = 'it was not noted why' "
        "WHERE state <> 'present' AND size IS NULL AND NOT "
        "(state = 'wanted' AND relpath IN (SELECT relpath FROM replisync_faults))"
    )
    # A repair left the size of what nobody can have; so does damage. The next run asks, and finds out.
    op.execute(
        "UPDATE replisync_files SET state = 'wanted', size = NULL, reason = 'it was not asked for' "
        "WHERE state <> 'present' AND size IS NOT NULL"
    )


def downgrade() -> None:
    """Take the tables back to the revision before."""
    with op.batch_alter_table("replisync_files") as table:
        table.drop_column("reason")
