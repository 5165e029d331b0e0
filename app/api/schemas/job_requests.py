"""What a client may ask of a job: OpenAI's fields and ours, nothing unknown."""

from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.api.schemas.common import Strict
from app.domain.comparison import SupervisedTwin
from app.domain.errors import Invalid
from app.domain.evaluation import EvaluationOptions
from app.domain.gate import GateRule
from app.domain.training import (
    MAX_SEED,
    Hyperparameters,
    Method,
    SdftHyperparameters,
    SharedHyperparameters,
    SupervisedHyperparameters,
)
from app.services.adapters import NAME_PATTERN
from app.services.jobs import JobRequest

MAX_JOB_SECONDS: Final = 30 * 24 * 3600


def _known_method(value: Any) -> Any:
    if value not in ("sdft", "supervised"):
        raise PydanticCustomError("unsupported_method", 'method.type must be "sdft" or "supervised".')
    return value


def _not_offered(value: Any) -> Any:
    if value is not None:
        message = "This service trains by sdft or supervised; leave it out, or send null as OpenAI's client does."
        raise PydanticCustomError("unsupported_method", message)
    return value


def _no_integrations(value: Any) -> Any:
    if isinstance(value, list) and value:
        msg = "This service has no integrations; remove them. A job's events and its metrics file have all numbers."
        raise ValueError(msg)
    return value


def _twin(value: Any) -> Any:
    """A twin by its name alone is one with nothing else asked for."""
    if not isinstance(value, str):
        return value
    if value != "supervised":
        hint = 'did you mean "supervised"?' if get_close_matches(value, ["supervised"]) else 'there is "supervised".'
        raise PydanticCustomError("unsupported_method", f"Nothing of that name can be compared with; {hint}")
    return {"method": value}


NotOffered = Annotated[None, BeforeValidator(_not_offered)]
"""A key of OpenAI's methods: its client sends null when a job's own method is posted again."""
Comparison = Annotated[
    SupervisedTwin, BeforeValidator(_twin, json_schema_input_type=Literal["supervised"] | SupervisedTwin)
]


class SdftBlock(Strict):
    """``method.sdft``."""

    hyperparameters: SdftHyperparameters = SdftHyperparameters()


class SupervisedBlock(Strict):
    """``method.supervised``."""

    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class MethodRequest(Strict):
    """How to train. Only the block that ``type`` names may be given."""

    type: Annotated[Method, BeforeValidator(_known_method)]
    sdft: SdftBlock | None = None
    supervised: SupervisedBlock | None = None
    dpo: NotOffered = None
    reinforcement: NotOffered = None


class LimitsRequest(Strict):
    """What a job may use."""

    max_seconds: int | None = Field(None, ge=1, le=MAX_JOB_SECONDS, description="Wall time of all attempts together.")


class CreateJob(Strict):
    """A job to queue. Whatever is not named here is refused."""

    model: str = Field(min_length=1, max_length=256, description="A base model, as /v1/models lists them.")
    training_file: str = Field(min_length=1, max_length=64)
    validation_file: str | None = Field(None, min_length=1, max_length=64)
    method: MethodRequest | None = Field(None, description="sdft if left out.")
    hyperparameters: SharedHyperparameters | None = Field(None, deprecated=True, description="Use method instead.")
    suffix: str | None = Field(
        None, max_length=64, pattern=f"^{NAME_PATTERN}$", description="Name of the adapter line that the version joins."
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    integrations: Annotated[list[Any] | None, BeforeValidator(_no_integrations)] = Field(
        None, max_length=0, description="None are offered."
    )
    parent_adapter: str | None = Field(
        None,
        min_length=1,
        max_length=400,
        description='The version to start from: "name:3", "name@alias" or an ft: model id.',
    )
    limits: LimitsRequest | None = None
    gate: GateRule | None = Field(None, description="What the version has to show; decided from its report.")
    evaluation: EvaluationOptions | None = Field(None, description="How the version is measured beyond the usual.")
    compare: list[Comparison] | None = Field(
        None,
        max_length=1,
        description='["supervised"]: train plain fine-tuning on the same data too and measure it in the same report.',
    )

    def understood(self) -> JobRequest:
        """The request with its method settled.

        Raises:
            Invalid: It says two things about the method, or compares what only distillation is compared with.
        """
        method = self.method.type if self.method else "sdft"
        if self.compare and method != "sdft":
            message = 'This job is supervised itself; remove compare, or set method.type to "sdft".'
            raise Invalid("invalid_value", message, param="compare")
        return JobRequest(
            model=self.model,
            training_file=self.training_file,
            method=method,
            hyperparameters=self._hyperparameters(method),
            hyperparameters_at=(
                "hyperparameters" if self.__dict__["hyperparameters"] else f"method.{method}.hyperparameters"
            ),
            method_is_default=self.method is None,
            validation_file=self.validation_file,
            seed=self.seed,
            suffix=self.suffix,
            parent_adapter=self.parent_adapter,
            max_seconds=self.limits.max_seconds if self.limits else None,
            gate=self.gate,
            evaluation=self.evaluation,
            compare=self.compare[0] if self.compare else None,
            metadata=self.metadata or {},
        )

    def _hyperparameters(self, method: Method) -> Hyperparameters:
        blocks = {"sdft": self.method and self.method.sdft, "supervised": self.method and self.method.supervised}
        chosen = blocks.pop(method)
        for name, block in blocks.items():
            if block:
                message = f'method.type is "{method}", so method.{name} has no effect; remove it or change the type.'
                raise Invalid("invalid_value", message, param=f"method.{name}")
        old_style = self.__dict__["hyperparameters"]  # not by its name, which warns that it is deprecated
        if chosen and old_style:
            message = "Hyperparameters are given twice; keep those in method and remove the deprecated ones."
            raise Invalid("invalid_value", message, param="hyperparameters")
        if chosen:
            return chosen.hyperparameters
        asked = old_style.model_dump(exclude_unset=True) if old_style else {}
        return SdftHyperparameters(**asked) if method == "sdft" else SupervisedHyperparameters(**asked)
