"""What a job would take, as clients see it."""

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, Field

from app.services.estimates import Estimate

MAX_LINES: Final = 100


class ExamplesObject(BaseModel):
    """Examples of the training file, and those that the evaluation keeps."""

    total: int
    held_out: int = Field(description="Of the validation file if there is one, else of the training file.")


class TokensObject(BaseModel):
    """In tokens of the base."""

    prompt: int = Field(description="Of all examples that are trained on, once.")
    demonstration: int = Field(description="Likewise.")
    document: int = Field(description="Likewise, with what parts it from the question; 0 where no teacher reads it.")
    trained: int = Field(description="With loss, over all steps; what the job's trained_tokens will count.")


class TruncationsObject(BaseModel):
    """Demonstrations that are longer than the student may answer; its answers to these will be cut."""

    count: int
    counted: int = Field(
        description="Examples that count is of: all, or of a file with more than a thousand a sample spread over it."
    )
    lines: list[int] = Field(description="Of the first hundred.")


class SecondsObject(BaseModel):
    """From the start of the job to its end, without the wait before it."""

    p50: float
    p90: float


class QueueObject(BaseModel):
    """What a job that is posted now would wait for."""

    waiting: int = Field(description="Jobs before it.")
    workers: int = Field(description="Alive.")
    wait_seconds: float | None = Field(description="Null without a worker, or without a finished job to judge by.")


class EstimateObject(BaseModel):
    """What a job would take. Times and memory are null until a job on this base and method has finished."""

    object: Literal["fine_tuning.job.estimate"]
    model: str
    method: Literal["sdft", "supervised"]
    hyperparameters: dict[str, Any] = Field(description="Every value that can be known before the run.")
    examples: ExamplesObject
    tokens: TokensObject
    truncations: TruncationsObject
    not_counted: list[str] = Field(
        description="Suites of lm-evaluation-harness: the worker alone knows their questions; their time comes on top."
    )
    steps: int
    seconds: SecondsObject | None
    peak_memory_bytes: int | None = Field(
        description="Of the trainer: no more than the finished job needed that was smaller in nothing."
    )
    peak_memory_is_at_least: bool = Field(
        description="Whether no such job has finished: it will need that much or more."
    )
    queue: QueueObject
    calibrated_on: int = Field(description="Finished jobs that times and memory are judged by.")
    hardware: dict[str, Any] | None = Field(description="What those ran on.")

    @classmethod
    def of(cls, found: Estimate) -> Self:
        """An estimate as clients see it."""
        seconds = found.seconds
        return cls(
            object="fine_tuning.job.estimate",
            model=found.base_model,
            method=found.config.method,
            hyperparameters=found.config.model_dump(mode="json", exclude={"method", "seed"}),
            examples=ExamplesObject(total=found.num_examples, held_out=found.num_heldout),
            tokens=TokensObject(
                prompt=found.prompt_tokens,
                demonstration=found.demonstration_tokens,
                document=found.document_tokens,
                trained=found.trained_tokens,
            ),
            truncations=TruncationsObject(
                count=len(found.cut_lines), counted=found.num_counted, lines=found.cut_lines[:MAX_LINES]
            ),
            not_counted=found.not_counted,
            steps=found.config.total_steps,
            seconds=SecondsObject(p50=round(seconds.p50, 1), p90=round(seconds.p90, 1)) if seconds else None,
            peak_memory_bytes=found.peak_memory.num_bytes if found.peak_memory else None,
            peak_memory_is_at_least=found.peak_memory is not None and found.peak_memory.is_lower_bound,
            queue=QueueObject(
                waiting=found.queue.num_waiting,
                workers=found.queue.num_workers,
                wait_seconds=None if found.queue.wait_seconds is None else round(found.queue.wait_seconds, 1),
            ),
            calibrated_on=found.calibrated_on,
            hardware=dict(found.hardware) if found.hardware else None,
        )
