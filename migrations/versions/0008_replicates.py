"""The phase in which a job trains again with other seeds.

Revision: 0008, after 0007, 2026-11-24.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PHASES = (
    "'waiting', 'retry_wait', 'claimed', 'loading', 'checking', 'training', 'comparing', 'evaluating', 'exporting', "
    "'load_check', 'cancelling', 'done'"
)


def upgrade() -> None:
    """Apply."""
    op.drop_constraint(op.f("ck_jobs_phase"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_phase"), "jobs", f"phase IN ({PHASES}, 'replicating')")


def downgrade() -> None:
    """Undo. Other seeds that are being trained are forgotten."""
    op.execute("UPDATE jobs SET phase = 'evaluating' WHERE phase = 'replicating'")
    op.drop_constraint(op.f("ck_jobs_phase"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_phase"), "jobs", f"phase IN ({PHASES})")
