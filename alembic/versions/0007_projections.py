"""Decoded tokens name their projection, of which there may be more than two, and have its values."""

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NEURON = ("component", sa.String), ("layer", sa.SmallInteger), ("neuron", sa.Integer)
TOKENS = ("side", sa.String), ("tokens", sa.ARRAY(sa.String)), ("token_ids", sa.ARRAY(sa.Integer))


def upgrade() -> None:
    _store_again(("projection", sa.String), "CASE WHEN norm THEN 'norm' ELSE 'plain' END", ("logits", "values"))


def downgrade() -> None:
    _store_again(("norm", sa.Boolean), "projection = 'norm'", ("values", "logits"), "WHERE projection <> 'z'")


def _store_again(column: tuple[str, type], value: str, values: tuple[str, str], where: str = "") -> None:
    """Store the rows in a table whose sixth column is another one, as DuckDB adds columns at the end only."""
    old, new = values
    op.rename_table("decodings", "before")
    columns = (("model_id", sa.Integer), *NEURON, column, *TOKENS, (new, sa.ARRAY(sa.Float)))
    op.create_table("decodings", *(sa.Column(name, kind, nullable=False) for name, kind in columns))
    op.execute(f"""
        INSERT INTO decodings
        SELECT model_id, component, layer, neuron, {value}, side, tokens, token_ids, "{old}" FROM before {where}""")
    op.drop_table("before")
