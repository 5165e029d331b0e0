"""A job can fail for hyperparameters that its data contradicts.

Revision: 0009, after 0008, 2026-11-28.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

CODES = (
    "'invalid_file', 'out_of_memory', 'diverged', 'teacher_not_better', 'base_model_unavailable', "
    "'suite_unavailable', 'worker_lost', 'time_limit', 'internal_error'"
)


def upgrade() -> None:
    """Apply."""
    op.drop_constraint(op.f("ck_jobs_error_code"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_error_code"), "jobs", f"error_code IN ({CODES}, 'invalid_value')")


def downgrade() -> None:
    """Undo. The code that these failures had before takes its place."""
    op.execute("UPDATE jobs SET error_code = 'invalid_file' WHERE error_code = 'invalid_value'")
    op.drop_constraint(op.f("ck_jobs_error_code"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_error_code"), "jobs", f"error_code IN ({CODES})")
