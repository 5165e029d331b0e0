"""Evaluations asked for by themselves, queued as jobs of their own kind.

Revision: 0004, after 0003, 2026-11-24.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

EMPTY_BEFORE_A_REPORT = ("report", "html_sha256", "scorer", "max_completion_tokens")


def upgrade() -> None:
    """Apply. A version's own evaluation has beside it what its job started from."""
    op.add_column("jobs", sa.Column("kind", sa.String(), server_default="training", nullable=False))
    op.alter_column("jobs", "training_file_id", nullable=True)
    op.alter_column("jobs", "method", nullable=True)
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", "kind IN ('training', 'evaluation')")
    op.create_check_constraint(
        op.f("ck_jobs_training_is_described"),
        "jobs",
        "kind = 'evaluation' OR (training_file_id IS NOT NULL AND method IS NOT NULL)",
    )
    op.add_column("evaluations", sa.Column("against_version_id", sa.String(), nullable=True))
    op.add_column(
        "evaluations",
        sa.Column("suites", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    )
    op.create_foreign_key(
        op.f("fk_evaluations_against_version_id_adapter_versions"),
        "evaluations",
        "adapter_versions",
        ["against_version_id"],
        ["id"],
    )
    op.execute(
        "UPDATE evaluations SET against_version_id = parent_version_id"
        " FROM adapter_versions WHERE adapter_versions.id = evaluations.version_id"
    )
    op.drop_constraint(op.f("uq_evaluations_version_id"), "evaluations")
    op.create_index(op.f("ix_evaluations_version_id"), "evaluations", ["version_id"])
    op.create_index(op.f("ix_evaluations_against_version_id"), "evaluations", ["against_version_id"])
    for column in EMPTY_BEFORE_A_REPORT:
        op.alter_column("evaluations", column, nullable=True)


def downgrade() -> None:
    """Undo. What was asked for by itself is gone."""
    op.execute("DELETE FROM evaluations USING jobs WHERE jobs.id = evaluations.job_id AND jobs.kind = 'evaluation'")
    for table in ("job_events", "job_metrics", "job_attempts"):
        op.execute(f"DELETE FROM {table} USING jobs WHERE jobs.id = {table}.job_id AND jobs.kind = 'evaluation'")  # noqa: S608
    op.execute("DELETE FROM jobs WHERE kind = 'evaluation'")
    for column in EMPTY_BEFORE_A_REPORT:
        op.alter_column("evaluations", column, nullable=False)
    op.drop_index(op.f("ix_evaluations_against_version_id"), "evaluations")
    op.drop_index(op.f("ix_evaluations_version_id"), "evaluations")
    op.create_unique_constraint(op.f("uq_evaluations_version_id"), "evaluations", ["version_id"])
    op.drop_column("evaluations", "suites")
    op.drop_column("evaluations", "against_version_id")
    op.drop_constraint(op.f("ck_jobs_training_is_described"), "jobs")
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs")
    op.alter_column("jobs", "method", nullable=False)
    op.alter_column("jobs", "training_file_id", nullable=False)
    op.drop_column("jobs", "kind")
