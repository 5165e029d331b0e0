"""How a job asked to be measured: a scorer, and files of questions.

Revision: 0005, after 0004, 2026-11-24.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    asked = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    op.add_column("jobs", sa.Column("evaluation", asked, nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("jobs", "evaluation")
