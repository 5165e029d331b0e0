"""Times that would undo each other are refused where they are read."""

import pytest
from pydantic import ValidationError

from app.settings import Settings, WorkerSettings

NEEDED = {
    "SDFT_DATABASE__URL": "postgresql+psycopg://x",
    "SDFT_BROKER__URL": "redis://x",
    "SDFT_STORAGE__ROOT": "/x",
    "SDFT_STORAGE__MODELS": "/x",
    "SDFT_STORAGE__WORK": "/x",
}


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


@pytest.mark.parametrize("variable", ["SDFT_WORKER__HEARTBEAT_SECOND", "SDFT_LIMITS__UPLOAD_BYTE"])
def test_a_misspelt_setting_of_a_group_is_refused(variable, monkeypatch):
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    Settings()
    monkeypatch.setenv(variable, "7")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings()
