"""Maps that keep their best neurons and a sketch of all; scores in the order of neurons; vectors and their indexes."""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCORES = (
    ("map_id", sa.Integer),
    ("layer", sa.SmallInteger),
    ("neuron", sa.Integer),
    ("score", sa.Float),
    ("rank", sa.Integer),
)


def upgrade() -> None:
    op.add_column("maps", sa.Column("kept", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE maps SET kept = neurons")
    op.execute("ALTER TABLE maps ALTER COLUMN kept DROP DEFAULT")
    _reorder("map_id, layer, neuron")
    op.create_table(
        "sketches",
        sa.Column("map_id", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
    )
    op.create_table(
        "vectors",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("vector", sa.ARRAY(sa.Float), nullable=False),
    )
    op.create_table(
        "indexes",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("content", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("built_at", sa.String, nullable=False, comment="UTC, ISO 8601"),
    )


def downgrade() -> None:
    for table in ("indexes", "vectors", "sketches"):
        op.drop_table(table)
    _reorder("map_id, rank")
    op.drop_column("maps", "kept")


def _reorder(order: str) -> None:
    """Store the scores again in another order: where they lie is what finds them."""
    op.rename_table("scores", "unordered")
    op.create_table("scores", *(sa.Column(name, kind, nullable=False) for name, kind in SCORES))
    op.execute(f"INSERT INTO scores SELECT * FROM unordered ORDER BY {order}")
    op.drop_table("unordered")
