"""Guided rollouts are gone: what jobs asked for and ran with no longer names their share.

A guided job that is under way goes on with rollouts that are all sampled.

Revision: 0010, after 0009, 2026-11-29.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.execute(
        "UPDATE jobs SET hyperparameters = hyperparameters - 'guided_share', resolved = resolved - 'guided_share'"
    )


def downgrade() -> None:
    """Undo. Configs of the release before know no share of offline rollouts."""
    op.execute(
        "UPDATE jobs SET hyperparameters = hyperparameters - 'offline_share', resolved = resolved - 'offline_share'"
    )
