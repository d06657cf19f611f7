"""Measures and points: numbers about layers and methods, and token representations laid out in a plane."""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "measures",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("method", sa.String),
        sa.Column("concept", sa.String),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger),
        sa.Column("first", sa.String),
        sa.Column("second", sa.String),
        sa.Column("condition", sa.String, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("examples", sa.Integer, nullable=False),
    )
    op.create_table(
        "points",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("projection", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("example_id", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("x", sa.Float, nullable=False),
        sa.Column("y", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in ("points", "measures"):
        op.drop_table(table)
