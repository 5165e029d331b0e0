"""The states of a job, which moves between them are allowed, why a run can fail, and what that means for a report."""

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


def without_report(status: str, phase: str, error_code: str | None, error_message: str | None) -> str:
    """What to say, after its name, of a job or an evaluation that has no report: whether it will have one, and why."""
    if error_code:
        return f"has failed ({error_code}), so there will be no report: {error_message}"
    if status == "cancelled" or phase == "cancelling":
        return f"{'was' if status == 'cancelled' else 'is being'} cancelled. There will be no report."
    return f"is {status} and has no report; it has one once it has succeeded."
