"""The report as data: versioned, immutable, the same on the wire, in the database and on the page. Computes nothing."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker.evals.run import ArmName
from worker.evals.statistics import Verdict
from worker.evals.suites import Role

Recommendation = Literal["ship", "look_closer", "do_not_ship"]
Measure = Literal["share_right", "negative_nll"]
"""Of a suite's scores: share of right answers, or for free text the mean log-likelihood of the demonstration."""

Said = Annotated[str, AfterValidator(lambda text: text.replace("\0", "\ufffd"))]
"""What a model or a suite said. A base that spells bytes may say any; JSON in Postgres holds no NUL."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Bounds(_Frozen):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class ArmScore(_Frozen):
    """What one arm scored on one suite."""

    arm: ArmName
    num_right: int | None = Field(description="None where answers are not judged.")
    score: Bounds
    nll: float | None = Field(description="Mean negative log-likelihood of the demonstration, nats per token.")
    field_f1: float | None = Field(description="Of JSON answers: F1 over fields.")
    num_trained: int | None = Field(
        0,
        description="Questions that the arm was trained on, or a version that it goes on from; those of "
        "lm-evaluation-harness are not looked up. None where a deleted file leaves that open. No cell of a lineage is "
        "made of such a score.",
    )


class Comparison(_Frozen):
    """The candidate against another arm on the same items."""

    against: ArmName
    difference: Bounds
    num_lost: int | None
    num_gained: int | None
    p_value: float = Field(
        description="Exact McNemar, for likelihoods of the studentised bootstrap. Of all but the skill Holm-adjusted: "
        "over every comparison with what was there before, and by themselves over those with the supervised twin."
    )
    loss_p_value: float | None = Field(
        None,
        description="Exact binomial, that no more than the margin is lost of what the other arm had right; "
        "Holm-adjusted over all such tests. None of the skill, of free text and beside the twin.",
    )
    verdict: Verdict


class Change(_Frozen):
    """A trained arm's score less that of an arm that was there before, on the same items."""

    arm: ArmName
    against: ArmName
    difference: Bounds
    num_lost: int | None = Field(description="Items right before and not now; None where answers are not judged.")
    num_gained: int | None


class Flip(_Frozen):
    """An item that a trained arm, the candidate unless said otherwise, lost or gained."""

    item: str
    kind: str
    change: Literal["lost", "gained"]
    against: list[ArmName] = Field(description="Those before it of which that holds: base, parent or both.")
    prompt: Said
    expected: list[Said]
    answers: dict[ArmName, Said]


class SuiteReport(_Frozen):
    """One suite, all arms."""

    name: str
    role: Role
    measure: Measure
    scorers: dict[str, int] = Field(description="Name and version of every scorer used.")
    n: int
    arms: list[ArmScore]
    comparisons: list[Comparison]
    changes: list[Change] = Field(description="Of every arm that the job trained; against the starting point last.")
    flips: list[Flip] = Field(
        description="The first hundred lost and the first hundred gained, those against the starting point before "
        "those against the base alone; changes has the counts."
    )


class Kept(_Frozen):
    """Of the items that a reference got right, those that the candidate still gets right."""

    suite: str
    group: str = Field(description="all, rehearsed kinds, other kinds, or one kind.")
    num_kinds: int
    num_rehearsed_kinds: int = Field(description="Kinds in the group of which rehearsal prompts have examples too.")
    reference: ArmName
    n: int
    num_had: int
    num_kept: int
    num_gained: int = Field(description="Right now, and not right for the reference.")
    share: Bounds | None = Field(description="None where the reference got nothing right.")


class LineageScore(_Frozen):
    """What a version scored on a skill that the lineage was taught: a cell of the retention matrix."""

    version: str = Field(description="name:version, or an arm where it has no such name yet.")
    suite: str
    score: Bounds


class DriftReport(_Frozen):
    """How far predictions have moved along the base's own answers: KL divergence, in nats per token, and overlap."""

    prompts: Literal["neutral", "task"]
    n: int
    base_to_candidate: float
    candidate_to_base: float
    candidate_overlap: float = Field(description="Share of the base's ten likeliest tokens among the candidate's.")
    base_to_supervised: float | None = Field(None, description="None where no supervised twin was trained.")
    supervised_to_base: float | None = None
    supervised_overlap: float | None = None


class WeightChange(_Frozen):
    """How far the weights of one kind of module lie from the base's, all layers together."""

    arm: ArmName
    module: str = Field(description="The last part of its name, such as q_proj.")
    norm: float = Field(description="Frobenius norm of what the adapter adds.")
    share: float = Field(description="That, relative to the norm of the base's weights.")


class Behaviour(_Frozen):
    """How an arm's answers look, whether right or wrong."""

    suite: str
    arm: ArmName
    mean_tokens: float
    lengths: list[int] = Field(description="Tokens of every answer, shortest first.")
    truncated: float = Field(description="Share of answers that the limit ended.")
    distinct_4: float = Field(description="Share of token 4-grams that are new in their answer; low is repetition.")
    artefacts: float = Field(description="Share of answers that speak of a demonstration.")
    copied: float | None = Field(
        description="Share of answers that repeat a training demonstration at length or whole; None where these are "
        "not at hand, as in an evaluation by itself."
    )
    entropy: float | None = Field(
        None,
        description="Mean of the next token's, in nats, along the arm's own answers to those prompts that drift is "
        "measured on; None where it is not.",
    )


class ScorerError(_Frozen):
    """An answer that could not be judged. Its item counts for no arm, but the twin's alone counts as wrong."""

    suite: str
    item: str
    arm: ArmName
    scorer: str
    message: Said


class Question(_Frozen):
    """One of the three questions, answered."""

    verdict: Verdict
    sentence: str


class CeilingQuestion(_Frozen):
    """How much of what could be distilled was learned."""

    share: Bounds | None
    sentence: str


class Summary(_Frozen):
    """What a reader with ten seconds needs."""

    recommendation: Recommendation
    headline: str
    skill: Question
    retention: Question
    ceiling: CeilingQuestion


class Method(_Frozen):
    """How it was measured."""

    scorer: str | None = Field(description="Of the version's own skill; none where that was not asked about.")
    scorer_reason: str | None
    split: str | None = Field(description="How questions were held out; none where none such was asked.")
    heldout_sha256: str | None
    template: str | None
    answers_reused: dict[str, list[ArmName]] = Field(
        description="By suite, the arms whose answers to the same questions an earlier job had asked for."
    )
    margin: float = Field(description="Changes within it are called the same.")
    resamples: int
    seed: int


class Cost(_Frozen):
    """What the job took."""

    seconds: dict[str, float] = Field(
        description="By phase, those of a twin and of other seeds included; of a resumed job, its last attempt's."
    )
    trained_tokens: int = Field(description="In the version's own training.")
    generated_tokens: int = Field(
        description="By the student in the version's own training, and for answers of all arms that the job asked. "
        "Not counted: what other seeds generate, what a training prepares, such as answers to rehearse, and answers to "
        "tasks of lm-evaluation-harness."
    )
    peak_memory_bytes: int | None


class TwinRun(_Frozen):
    """What the supervised twin trained with, and what that took."""

    config: dict[str, Any]
    trained_tokens: int
    seconds: float = Field(description="Of its steps.")
    cost_ratio: float = Field(description="How many times as long the version's own training took.")


class Supervised(_Frozen):
    """Plain fine-tuning on the same data, split, seed, steps and batch, beside the version."""

    sentence: str
    kept: list[Kept] = Field(description="Of the items that a reference got right, those that the twin still gets.")
    flips: dict[str, list[Flip]] = Field(
        description="By suite, items that the twin lost or gained, as many as of the version."
    )
    run: TwinRun


class SeedScore(_Frozen):
    """What the version of one seed, or its twin, scored on one suite."""

    suite: str
    measure: Measure
    arm: ArmName
    n: int
    score: Bounds
    kept: Kept | None = Field(description="Of what the starting point had right; None of the skill and of free text.")


class SeedRun(_Frozen):
    """One seed's run."""

    seed: int
    recommendation: Recommendation | None = Field(description="As of a version; None where its training diverged.")
    scores: list[SeedScore]


class Range(_Frozen):
    """Over seeds: their mean, the lowest and the highest; no interval."""

    mean: float
    low: float
    high: float


class SeedSpread(_Frozen):
    """One arm's scores on one suite, over the seeds that have it."""

    suite: str
    measure: Measure
    arm: ArmName
    num_seeds: int
    score: Range
    kept: Range | None = Field(description="Share of what the starting point had right.")


class Replicates(_Frozen):
    """The same configuration under several seeds, asked the same. The version's own run comes first."""

    runs: list[SeedRun]
    spread: list[SeedSpread]


class Unjudged(_Frozen):
    """A suite that was to be asked and of which too little, or nothing, could be judged."""

    suite: str
    role: Role
    sentence: str = Field(description="What is missing, and why.")


class Report(_Frozen):
    """Everything that a job measured."""

    schema_version: Literal[8] = 8
    title: str
    summary: Summary
    suites: list[SuiteReport]
    lineage: list[LineageScore] = Field(
        description="Versions and skills in the order in which they came, the base first; empty without earlier skills."
        " There is no cell where too little could be judged, or where questions were trained on."
    )
    kept: list[Kept]
    drift: list[DriftReport]
    weights: list[WeightChange]
    behaviour: list[Behaviour]
    supervised: Supervised | None = Field(None, description="None where no comparison was asked for.")
    replicates: Replicates | None = Field(None, description="None where one seed was asked for.")
    method: Method
    caveats: list[str]
    errors: list[ScorerError]
    cost: Cost
    provenance: dict[str, Any]
    unjudged: list[Unjudged] = Field([], description="None of them counts as passed, in the summary or for a gate.")
