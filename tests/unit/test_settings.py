"""Times that would undo each other are refused where they are read."""

import pytest
from pydantic import ValidationError

from app.settings import WorkerSettings


@pytest.mark.parametrize(
    ("heartbeat", "trust", "lease"),
    [(50, 45, 60), (10, 60, 60), (10, 45, 30), (45, 45, 60)],
)
def test_a_lease_outlasts_trust_and_trust_a_heartbeat(heartbeat, trust, lease):
    """Fault caught: a trainer that ends itself while its worker lives, or two at work on one job."""
    with pytest.raises(ValidationError, match=r"heartbeat_seconds .* must be below trust_seconds"):
        WorkerSettings(heartbeat_seconds=heartbeat, trust_seconds=trust, lease_seconds=lease)


def test_the_values_that_ship_are_in_order():
    assert WorkerSettings().heartbeat_seconds < WorkerSettings().trust_seconds < WorkerSettings().lease_seconds
