"""Points say under which condition the tokens were laid out: of the model as it is, or with an edit."""

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("points", sa.Column("condition", sa.String))
    op.execute("UPDATE points SET condition = 'before'")


def downgrade() -> None:
    op.execute("DELETE FROM points WHERE condition <> 'before'")
    op.drop_column("points", "condition")
