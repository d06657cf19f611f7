"""Edits with what solved them and their author's note; changes with noise."""

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("edits", sa.Column("solver", sa.String))
    op.add_column("edits", sa.Column("note", sa.String))
    op.add_column("changes", sa.Column("noise", sa.Float))


def downgrade() -> None:
    op.drop_column("changes", "noise")
    op.drop_column("edits", "note")
    op.drop_column("edits", "solver")
