"""docker-compose.yml without Docker: its parts fit together, and its environment is one that the code reads."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("sdft-")]


def test_every_service_is_known_to_those_that_wait_for_it():
    conditions = {
        "service_healthy": lambda service: "healthcheck" in service,
        "service_completed_successfully": lambda service: service.get("restart") is None,
    }
    for service in SERVICES.values():
        for name, need in service.get("depends_on", {}).items():
            assert conditions[need["condition"]](SERVICES[name])


def test_every_volume_is_declared_and_every_dockerfile_is_there():
    for service in SERVICES.values():
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_one_that_the_settings_read(name: str, monkeypatch: pytest.MonkeyPatch):
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{(\w+)[^}]*\}", r"a-secret", value))
    settings = Settings()  # type: ignore[call-arg] - from the environment
    assert settings.database.url.get_secret_value() == "postgresql+psycopg://sdft:a-secret@postgres/sdft"
    assert settings.broker.url.get_secret_value() == "redis://:a-secret@valkey:6379/0"


def test_no_secret_is_in_the_tree_and_none_has_a_default():
    text = (ROOT / "docker-compose.yml").read_text()
    secrets = set(re.findall(r"\$\{(\w+_PASSWORD)", text))
    examples = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy" / "example.env").read_text(), re.MULTILINE))
    assert set(examples) == secrets
    assert set(examples.values()) == {"replace-me"}
    assert not re.search(r"\$\{\w+_PASSWORD:-", text)


def test_the_broker_forgets_nothing_and_evicts_nothing():
    assert {"--appendonly=yes", "--maxmemory-policy=noeviction"} <= set(SERVICES["valkey"]["command"])


def test_only_the_api_listens_and_only_on_this_machine():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(ports) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in ports["api"])
