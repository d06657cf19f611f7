"""Effects say in columns which method's best neurons were ablated, how many, and from which map they were taken."""

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = ("method", "dose", "reduce", "target")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("effects", sa.Column(name, sa.String))
    # Until now they stood in the label alone: `method:dose:reduce:concept`, with `[target]` behind some methods.
    op.execute("""
        UPDATE effects SET
            method = regexp_replace(split_part(edit, ':', 1), '\\[[^\\]]*\\]$', ''),
            dose = split_part(edit, ':', 2),
            reduce = split_part(edit, ':', 3),
            target = coalesce(nullif(regexp_extract(split_part(edit, ':', 1), '\\[([^\\]]*)\\]$', 1), ''), 'text')
        WHERE edit = concat_ws(':', split_part(edit, ':', 1), split_part(edit, ':', 2), split_part(edit, ':', 3),
                               concept)
    """)


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("effects", name)
