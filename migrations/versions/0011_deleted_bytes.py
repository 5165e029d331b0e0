"""Files that were deleted, and that a job still names, lose their bytes: their rows stay without a digest.

Revision: 0011, after 0010, 2026-11-29.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NOTHING = hashlib.sha256(b"").hexdigest()


def upgrade() -> None:
    """Apply."""
    op.alter_column("files", "sha256", existing_type=sa.String(), nullable=True)


def downgrade() -> None:
    """Undo. The release before never reads a deleted file, but its row has to name some bytes: none."""
    op.execute(f"INSERT INTO blobs (sha256, num_bytes) VALUES ('{_NOTHING}', 0) ON CONFLICT DO NOTHING")  # noqa: S608
    op.execute(f"UPDATE files SET sha256 = '{_NOTHING}' WHERE sha256 IS NULL")  # noqa: S608
    op.alter_column("files", "sha256", existing_type=sa.String(), nullable=False)
