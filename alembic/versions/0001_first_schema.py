"""The first schema.

Written out, not derived from atlas/store/schema.py: what a released revision creates must never change.
"""

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = "JSON"
UTC = "UTC, ISO 8601"


def upgrade() -> None:
    _what_runs_are_about()
    _runs_and_scores()
    _facts_about_neurons()
    _edits()


def _what_runs_are_about() -> None:
    op.create_table(
        "models",
        sa.Column("model_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("revision", sa.String),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("model_type", sa.String, nullable=False),
        sa.Column("layers", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("d_model", sa.Integer, nullable=False),
        sa.Column("vocabulary", sa.Integer, nullable=False),
        sa.Column("created_at", sa.String, nullable=False, comment=UTC),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("path", sa.String),
        sa.Column("revision", sa.String, nullable=False),
        sa.Column("licence", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False, comment=UTC),
    )
    op.create_table(
        "concepts",
        sa.Column("concept_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("supercategory", sa.String),
        sa.Column("category_id", sa.Integer),
        sa.Column("forms", sa.ARRAY(sa.String), nullable=False),
    )
    op.create_table(
        "examples",
        sa.Column("example_id", sa.String, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("split", sa.String, nullable=False),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("answer", sa.String),
        sa.Column("media", sa.ARRAY(sa.String), nullable=False),
        sa.Column("concepts", sa.ARRAY(sa.String), nullable=False),
    )


def _runs_and_scores() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("model_id", sa.Integer),
        sa.Column("dataset_id", sa.Integer),
        sa.Column("job", sa.String, nullable=False, comment=JSON),
        sa.Column("environment", sa.String, nullable=False, comment=JSON),
        sa.Column("outcome", sa.String, nullable=False, comment=JSON),
        sa.Column("started_at", sa.String, nullable=False, comment=UTC),
        sa.Column("finished_at", sa.String),
    )
    op.create_table(
        "maps",
        sa.Column("map_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("concept_id", sa.Integer),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("reduce", sa.String, nullable=False),
        sa.Column("tap", sa.String, nullable=False),
        sa.Column("parameters", sa.String, nullable=False, comment=JSON),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("neurons", sa.Integer, nullable=False),
        sa.Column("mean", sa.Float, nullable=False),
        sa.Column("std", sa.Float, nullable=False),
    )
    op.create_table(
        "scores",
        sa.Column("map_id", sa.Integer, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
    )


def _facts_about_neurons() -> None:
    op.create_table(
        "exemplars",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("rank", sa.SmallInteger, nullable=False),
        sa.Column("example_id", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("token", sa.String, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.create_table(
        "decodings",
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("norm", sa.Boolean, nullable=False),
        sa.Column("side", sa.String, nullable=False),
        sa.Column("tokens", sa.ARRAY(sa.String), nullable=False),
        sa.Column("token_ids", sa.ARRAY(sa.Integer), nullable=False),
        sa.Column("logits", sa.ARRAY(sa.Float), nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
    )
    op.create_table(
        "responses",
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("example_id", sa.String, nullable=False),
        sa.Column("generation", sa.String, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("token_ids", sa.ARRAY(sa.Integer), nullable=False),
    )


def _edits() -> None:
    op.create_table(
        "edits",
        sa.Column("edit_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("tap", sa.String, nullable=False),
        sa.Column("concept", sa.String),
        sa.Column("provenance", sa.String, nullable=False, comment=JSON),
        sa.Column("changes", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False, comment=UTC),
    )
    op.create_table(
        "changes",
        sa.Column("edit_id", sa.Integer, nullable=False),
        sa.Column("component", sa.String, nullable=False),
        sa.Column("layer", sa.SmallInteger, nullable=False),
        sa.Column("neuron", sa.Integer, nullable=False),
        sa.Column("gain", sa.Float, nullable=False),
        sa.Column("bias", sa.Float, nullable=False),
        sa.Column("where", sa.String, nullable=False),
        sa.Column("write", sa.Integer),
    )
    op.create_table(
        "effects",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("edit", sa.String, nullable=False),
        sa.Column("concept", sa.String),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("subset", sa.String, nullable=False),
        sa.Column("condition", sa.String, nullable=False),
        sa.Column("metric", sa.String, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("seeds", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    for table in ("changes", "edits", "effects", "responses", "labels", "decodings", "exemplars"):
        op.drop_table(table)
    for table in ("scores", "maps", "runs", "examples", "concepts", "datasets", "models"):
        op.drop_table(table)
