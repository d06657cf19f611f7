"""Effects say how many clusters of examples, and how many independent ones, their intervals are of."""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("effects", sa.Column("clusters", sa.Integer))
    op.add_column("effects", sa.Column("effective", sa.Float))


def downgrade() -> None:
    op.drop_column("effects", "effective")
    op.drop_column("effects", "clusters")
