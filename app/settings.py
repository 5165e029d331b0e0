"""Settings, read from ``SDFT_*`` environment variables at the edges only (the API factory, the worker, the CLI).

Below an edge nothing imports this module: settings become one ``Resources``.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

HTTP_THREADS = 40
"""Starlette's thread limit; the database pool is sized to it so that a thread never waits for a connection."""


class _Group(BaseModel):
    """A name that is not one of its own is refused: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class DatabaseSettings(_Group):
    """SQLAlchemy URL of a Postgres, ``postgresql+psycopg://``."""

    url: SecretStr


class BrokerSettings(_Group):
    """Redis or Valkey: ``redis://host/0`` or ``redis+socket:///path``. Only rings; no job lives there."""

    url: SecretStr
    key_prefix: str = "sdft:"


class StorageSettings(_Group):
    """Folders shared by the API and the workers, and scratch space of a worker."""

    root: Path = Field(description="Blobs: uploads, adapters, reports.")
    models: Path = Field(description="Base model folders.")
    work: Path = Field(description="Attempts in progress; local to a worker.")


class LimitSettings(_Group):
    """Sizes beyond which a request is refused."""

    upload_bytes: int = Field(512 * 1024 * 1024, gt=0)
    json_bytes: int = Field(1024 * 1024, gt=0)
    job_seconds: int = Field(24 * 3600, gt=0, description="Wall limit of a job that names none.")


class WorkerSettings(_Group):
    """Times of the lease and of the trainer process; see docs/decisions on why these values."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of a trainer; the cores that it may use if unset.")
    lm_eval_tasks: Path | None = Field(None, description="Folder of task YAMLs for lm-evaluation-harness.")
    heartbeat_seconds: float = Field(10, gt=0)
    lease_seconds: float = Field(60, gt=0)
    trust_seconds: float = Field(45, gt=0)
    sweep_seconds: float = Field(15, gt=0)
    ring_again_seconds: float = Field(30, gt=0)
    checkpoint_seconds: float = Field(60, gt=0)
    kill_grace_seconds: float = Field(30, gt=0)
    stall_seconds: float = Field(600, gt=0)
    warm_jobs: int = Field(50, ge=1, description="Jobs after which a trainer process is replaced; 1 keeps none warm.")
    warm_idle_seconds: float = Field(600, gt=0, description="Without a job; then a trainer ends.")
    warm_memory_growth: float = Field(1.5, gt=1, description="A trainer that holds so many times more is replaced.")

    @model_validator(mode="after")
    def _lease_outlasts_trust(self) -> Self:
        if not self.heartbeat_seconds < self.trust_seconds < self.lease_seconds:
            msg = (
                f"heartbeat_seconds ({self.heartbeat_seconds:g}) must be below trust_seconds ({self.trust_seconds:g}), "
                f"and that below lease_seconds ({self.lease_seconds:g}): else a trainer ends itself while its worker "
                "lives, or two work on one job"
            )
            raise ValueError(msg)
        return self


class Settings(BaseSettings):
    """All of it. Nested names use two underscores: ``SDFT_DATABASE__URL``."""

    model_config = SettingsConfigDict(env_prefix="SDFT_", env_nested_delimiter="__", extra="forbid")

    database: DatabaseSettings
    broker: BrokerSettings
    storage: StorageSettings
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    docs: bool = Field(default=True, description="Serve /docs.")
    log_format: Literal["json", "console"] = "json"
