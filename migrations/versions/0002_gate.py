"""The rule that a job comes with, and what was decided by it.

Revision: 0002, after 0001, 2026-11-24.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RULE = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("gate", RULE, nullable=True))
    op.add_column("evaluations", sa.Column("gate", RULE, nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("evaluations", "gate")
    op.drop_column("jobs", "gate")
