"""What a job trains beside its version, and the phase in which it does.

Revision: 0006, after 0005, 2026-11-24.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

PHASES = (
    "'waiting', 'retry_wait', 'claimed', 'loading', 'checking', 'training', 'evaluating', 'exporting', 'load_check', "
    "'cancelling', 'done'"
)


def upgrade() -> None:
    """Apply."""
    asked = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    op.add_column("jobs", sa.Column("compare", asked, nullable=True))
    op.drop_constraint(op.f("ck_jobs_phase"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_phase"), "jobs", f"phase IN ({PHASES}, 'comparing')")


def downgrade() -> None:
    """Undo. A twin that is being trained is forgotten."""
    op.execute("UPDATE jobs SET phase = 'training' WHERE phase = 'comparing'")
    op.drop_constraint(op.f("ck_jobs_phase"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_phase"), "jobs", f"phase IN ({PHASES})")
    op.drop_column("jobs", "compare")
