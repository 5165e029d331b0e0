"""The states of a job, which moves between them are allowed, and why a run can fail."""

from typing import Final, Literal, get_args

Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
"""OpenAI's six and never a seventh; what happens inside is ``Phase``."""

Phase = Literal[
    "waiting", "retry_wait", "claimed", "loading", "checking", "training", "comparing", "evaluating",
    "replicating", "exporting", "load_check", "cancelling", "done",
]  # fmt: skip

FailureCode = Literal[
    "invalid_file", "invalid_value", "out_of_memory", "diverged", "teacher_not_better", "base_model_unavailable",
    "suite_unavailable", "worker_lost", "time_limit", "internal_error",
]  # fmt: skip

JobKind = Literal["training", "evaluation"]

JOB_KINDS: Final[tuple[JobKind, ...]] = get_args(JobKind)
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
FAILURE_CODES: Final[tuple[FailureCode, ...]] = get_args(FailureCode)

TERMINAL: Final[frozenset[Status]] = frozenset({"succeeded", "failed", "cancelled"})
TRANSITIONS: Final[frozenset[tuple[Status, Status]]] = frozenset({
    ("validating_files", "queued"), ("validating_files", "failed"), ("validating_files", "cancelled"),
    ("queued", "running"), ("queued", "cancelled"), ("queued", "failed"),
    ("running", "queued"), ("running", "succeeded"), ("running", "failed"), ("running", "cancelled"),
})  # fmt: skip

RETRYABLE: Final[frozenset[FailureCode]] = frozenset({"out_of_memory", "worker_lost", "base_model_unavailable"})
"""Failures that another attempt may not meet again."""

MAX_FAILED_ATTEMPTS: Final = 3
MAX_PREEMPTIONS: Final = 20
MAX_JOB_SECONDS: Final = 30 * 24 * 3600
"""Longest wall limit that a client may ask for."""
