"""A job can fail for a suite that its worker cannot ask.

Revision: 0007, after 0006, 2026-11-24.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CODES = (
    "'invalid_file', 'out_of_memory', 'diverged', 'teacher_not_better', 'base_model_unavailable', 'worker_lost', "
    "'time_limit', 'internal_error'"
)


def upgrade() -> None:
    """Apply."""
    op.drop_constraint(op.f("ck_jobs_error_code"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_error_code"), "jobs", f"error_code IN ({CODES}, 'suite_unavailable')")


def downgrade() -> None:
    """Undo. The nearest older code takes its place."""
    op.execute("UPDATE jobs SET error_code = 'invalid_file' WHERE error_code = 'suite_unavailable'")
    op.drop_constraint(op.f("ck_jobs_error_code"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_error_code"), "jobs", f"error_code IN ({CODES})")
