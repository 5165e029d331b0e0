"""One training, start to end, in the trainer process: load, check, train, evaluate, export, load check.

Works in one folder (see ``app.domain.trainer_protocol``) and talks on one pipe; knows no database, no store and no
broker.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from app.domain.demonstrations import read_demonstrations
from app.domain.distillation import Contradiction
from app.domain.evaluation import unmeasured
from app.domain.proportions import CONFIDENCE, num_to_show
from app.domain.text_rules import CannotScore
from app.domain.trainer_protocol import ORDER_NAME, ORDERS, EvaluationOrder, Order
from app.domain.training import (
    SAFE_LEARNING_RATE,
    SMALL_BASE_PARAMETERS,
    SdftHyperparameters,
    TrainingConfig,
    resolve,
)
from worker import memory
from worker.dataset import Lengths, choose_scorer, make_suites, part, past_scores
from worker.evals.replicates import Replicate
from worker.evals.report import MARGIN, build_report
from worker.evals.schema import Cost
from worker.evals.scorers import SCORERS
from worker.evals.suites import Item, Split, Suite, prompt_sha256
from worker.evaluation import Evaluation
from worker.exporting import check_loading, export, provenance
from worker.harness import Task, open_tasks
from worker.hf.base import Base
from worker.hf.checkpoint import Checkpoints, read_checkpoint
from worker.hf.model import HfPolicy
from worker.rehearsal import check_prompts, prompts_of_its_own, rehearsal
from worker.reporting import Drained, PhaseClock, PipeReporter, RunFailed
from worker.siblings import NOT_COMPARED, Siblings
from worker.teacher_check import check_teacher
from worker.trainer import TrainResult, train

RESUMED = (
    "The job went on from a checkpoint: seconds by phase and peak memory are those of its last attempt, tokens of all."
)
PAPER_BASE = 3_000_000_000
"""Parameters below which replications of the paper found that plain fine-tuning acquires more."""


class Training:
    """One try at a training.

    Args:
        folder: Laid out by the supervisor, the order in it.
        reporter: To the supervisor.
        base: The order's, if an earlier attempt of this process has loaded it.

    Attributes:
        base: Loaded by ``run`` if it was not given.
    """

    def __init__(self, folder: Path, reporter: PipeReporter, base: Base | None = None) -> None:
        self.folder, self.reporter, self.base = folder, reporter, base
        self.order = Order.model_validate_json((folder / ORDER_NAME).read_bytes())
        self.phase = PhaseClock(reporter)

    def run(self) -> None:
        """Do what the order says.

        Raises:
            RunFailed, Unprocessable, Diverged: The job cannot succeed; the message is for the client.
            Drained: The supervisor asked to leave; the last checkpoint holds all that matters.
        """
        memory.reset_peak()
        with self.phase("loading"):
            data = part(self.order, self.folder)
            scorer = choose_scorer(self.order, data)
            base = self.base = self.base or self.load()
            lengths = Lengths.of(data, base.chat)
            config = self.order.resolved or self.resolve(lengths)
            policy = self.start(base, config)
            tasks, missing = self.tasks(policy)
            longest_answer = max(lengths.longest_answer, config.max_completion_tokens)
            suites = make_suites(self.order, self.folder, data, config, scorer=scorer, longest_answer=longest_answer)
        if self.order.resolved is None:
            with self.phase("checking"):
                self.warn_of_no_skill(data)
                self.warn_of_few_questions(suites)
                self.warn_of_other_answers(suites)
                config = self.check(policy, data, config)
            self.reporter.resolved(config)
        with self.phase("training"):
            result = self.train(policy, data, config)
            policy.rest()  # nothing from here on reads a demonstration again
        start = partial(self.start, base)
        siblings = Siblings(self.order, self.folder, self.reporter, config, data, suites, tasks, start)
        plain = twin = None
        if self.order.compare:
            num_parameters = self.order.base.num_parameters
            with self.phase("comparing"):
                plain = self.order.compare.config(config, facts=lengths.facts, num_parameters=num_parameters)
                twin = siblings.add_twin(policy, plain)
        with self.phase("evaluating"):
            measured = siblings.ask(policy, has_twin=twin is not None, on_progress=self.reporter.progress)
            measured.unasked |= missing
            measured.notes += dict.fromkeys(missing.values())
        replicates: list[Replicate] = []
        if self.order.seeds > 1:
            with self.phase("replicating"):
                policy.rest()
                replicates = siblings.replicate(plain if twin else None, measured)
        with self.phase("exporting"):
            report = build_report(
                measured,
                title=self.order.version_name,
                scorer=scorer,
                split=data,
                template=config.template if config.method == "sdft" else None,
                cost=self.cost(result),
                provenance=provenance(self.order, config, data=data, policy=policy, asked=measured.suites),
                names={"parent": self.order.parent.label} if self.order.parent else {},
                past=past_scores(self.order),
                twin=twin.run(beside=result) if twin else None,
                seed=config.seed,
                replicates=replicates,
                notes=[
                    *([NOT_COMPARED] if self.order.compare and twin is None else []),
                    *([RESUMED] if self.order.resume_step is not None else []),
                ],
            )
            export(self.order, self.folder, policy, config=config, data=data, report=report)
        with self.phase("load_check"):
            check_loading(self.order, self.folder, policy, data)
        self.reporter.finished(
            trained_tokens=result.trained_tokens, scorer=scorer.name, max_completion_tokens=longest_answer
        )

    def resolve(self, lengths: Lengths) -> TrainingConfig:
        """Give every ``auto`` but the template its value.

        Raises:
            RunFailed: What was asked for cannot be on this data, which was only counted in part when the job was
                posted.
        """
        order = self.order
        try:
            return resolve(
                order.hyperparameters,
                method=order.method,
                seed=order.seed,
                facts=lengths.facts,
                num_parameters=order.base.num_parameters,
                has_earlier=bool(order.rehearsal),
            )
        except Contradiction as error:
            raise RunFailed(
                "invalid_value", str(error), f"method.{order.method}.hyperparameters.{error.param}"
            ) from error

    def load(self) -> Base:
        """The base that the order names."""
        return Base.load(Path(self.order.base.path), device=self.order.device, num_threads=self.order.num_threads)

    def start(self, base: Base, config: TrainingConfig) -> HfPolicy:
        """The base with the adapter that this job starts from."""
        policy = HfPolicy.on(
            base,
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            parent=self.folder / "parent" if self.order.parent else None,
            seed=config.seed,
        )
        policy.on_work = self.reporter.working
        return policy

    def tasks(self, policy: HfPolicy) -> tuple[list[Task], dict[str, str]]:
        """Tasks of lm-evaluation-harness, and by name of the suite why any are missing.

        Raises:
            RunFailed: Some cannot be asked here, and nothing has been trained yet that would be lost.
        """
        tasks, missing = open_tasks(self.order, policy)
        reasons = dict.fromkeys(missing.values())
        if reasons and self.order.resolved is None:
            raise RunFailed("suite_unavailable", " ".join(reasons), "evaluation.suites")
        for reason in reasons:
            self.reporter.event("warn", reason)
        return tasks, missing

    def warn_of_no_skill(self, data: Split) -> None:
        """Say that nothing is held out where only the texts tell; a file of few prompts is told of at the post."""
        if not data.heldout and (self.order.validation_sha256 or self.order.parent):
            self.reporter.event("warn", f"{data.statement} {unmeasured(has_gate=self.order.gate is not None)}")

    def warn_of_few_questions(self, suites: Sequence[Suite]) -> None:
        """Say what the report and the gate will not be able to show, while more questions can still be given."""
        gate = self.order.gate
        limits = [(MARGIN, CONFIDENCE), *([(gate.max_forgetting, gate.confidence)] if gate else [])]
        needed, limit = max((num_to_show(limit, confidence), limit) for limit, confidence in limits)
        for suite in suites:
            num = len(suite.items)
            if not suite.judged or not 0 < num < needed:
                continue
            points = f"no more than {100 * limit:g} points"
            if suite.role == "skill":
                self.reporter.event(
                    "info",
                    f"{num} questions are held out of {suite.name}. To show that a later version loses {points} of it "
                    f"takes {needed}; a validation file can give them.",
                )
            else:
                held_out = "held-out " if suite.role == "earlier" else ""
                self.reporter.event(
                    "warn",
                    f"{suite.name} has {num} {held_out}questions; to show that {points} are lost takes {needed}. "
                    "That stays in doubt, for the report and for a gate, unless the suite gets better.",
                )

    def warn_of_other_answers(self, suites: Sequence[Suite]) -> None:
        """Say where this job's files contradict what an earlier version is measured on."""
        earlier = [suite for suite in suites if suite.role == "earlier" and suite.judged]
        files = [self.folder / name for name in ("train.jsonl", "validation.jsonl") if (self.folder / name).exists()]
        demonstrations = [one for file in files for one in read_demonstrations(file)] if earlier else []
        shown = {prompt_sha256(one.messages): one.completion for one in demonstrations}
        for suite in earlier:
            answers = ((item, shown.get(prompt_sha256(item.messages))) for item in suite.items)
            if num_other := sum(answer is not None and not _agrees(item, answer) for item, answer in answers):
                self.reporter.event(
                    "warn",
                    f"{num_other} of {len(suite.items)} questions that show whether {suite.name} is kept have other "
                    "answers in this job's files, and no version can have both right. To correct a skill, start from "
                    "the version before it.",
                )

    def check(self, policy: HfPolicy, data: Split, config: TrainingConfig) -> TrainingConfig:
        """Before time is spent: does the teacher know more than the student, and shown in which way?"""
        if (policy.lora_rank, policy.lora_alpha) != (config.lora_rank, config.lora_alpha):
            self.reporter.event(
                "info", f"The parent's LoRA rank {policy.lora_rank} and alpha {policy.lora_alpha} go on."
            )
            config = config.model_copy(update={"lora_rank": policy.lora_rank, "lora_alpha": policy.lora_alpha})
        self.warn(policy, config)
        if config.method == "supervised":
            return config
        for warning in check_prompts(self.order, self.folder, data, policy, config):
            self.reporter.event("warn", warning)
        teacher = check_teacher(policy, data.training, config)
        self.reporter.event("info", teacher.sentence, **teacher.numbers)
        if not teacher.teacher_is_better:
            message = (
                "With the demonstration in its context the model finds the expert's answer no likelier than "
                "without it, so there is little to distil. Use a larger base, clearer demonstrations, or another "
                "template."
            )
            if config.weak_teacher == "fail":
                raise RunFailed("teacher_not_better", message)
            self.reporter.event("warn", message)
        config = config.model_copy(update={"template": teacher.template})
        if config.loss_skip_tokens and self.leaves_the_skip_open() and teacher.begins_alike:
            self.reporter.event(
                "info",
                f"{teacher.teacher.begun:.0%} of the teacher's answers begin as the expert's do, so no token is left "
                "out of the loss (loss_skip_tokens 0).",
            )
            config = config.model_copy(update={"loss_skip_tokens": 0})
        return config

    def leaves_the_skip_open(self) -> bool:
        """Whether no one asked for tokens without loss: neither the client nor the paper."""
        asked = self.order.hyperparameters
        return isinstance(asked, SdftHyperparameters) and asked.preset != "paper" and asked.loss_skip_tokens == "auto"

    def warn(self, policy: HfPolicy, config: TrainingConfig) -> None:
        """Say what is known to go wrong with a choice."""
        num_parameters = self.order.base.num_parameters
        if config.learning_rate > SAFE_LEARNING_RATE and num_parameters >= SMALL_BASE_PARAMETERS:
            self.reporter.event(
                "warn",
                f"A learning rate of {config.learning_rate:g} is known to cost earlier skills; "
                f"{SAFE_LEARNING_RATE:g} or less keeps more of them.",
            )
        if config.teacher.kind == "live":
            self.reporter.event(
                "warn",
                "A live teacher moves with every step of its student and is known to diverge; frozen or ema hold it.",
            )
        if config.method == "sdft" and num_parameters < PAPER_BASE:
            self.reporter.event(
                "info",
                "Below 3 billion parameters plain supervised fine-tuning often acquires more, and forgets more. "
                "The report shows what this version kept.",
            )
        if config.offline_share == 1:
            self.reporter.event(
                "info",
                "Rollouts are the demonstrations themselves (offline_share 1): the student learns along the expert's "
                "answers, and not on samples of its own. Set offline_share to 0, with more epochs, to have it sample.",
            )
        if config.method == "sdft" and policy.thinks:
            self.reporter.event(
                "warn",
                "This base thinks before it answers, and a rollout ends after max_completion_tokens "
                f"({config.max_completion_tokens}), in the middle of a thought. Choose a base that answers at once, or "
                "show thoughts in the demonstrations and allow for their length.",
            )
        if policy.told_not_to_think:
            self.reporter.event(
                "info",
                "This base can think before it answers. Here it is asked not to (enable_thinking=False in its chat "
                "template), in training and in the report: ask the version the same way.",
            )

    def train(self, policy: HfPolicy, data: Split, config: TrainingConfig) -> TrainResult:
        """From the start or from the last checkpoint to the last step.

        Raises:
            Drained: Asked to leave before that.
        """
        order = self.order
        resume = read_checkpoint(self.folder / "resume") if order.resume_step is not None else None
        own = prompts_of_its_own(policy, config, resume, self.reporter)
        checkpoints = Checkpoints(
            self.folder,
            every_seconds=order.checkpoint_seconds,
            base_name=order.base.peft_name,
            base_revision=order.base.revision,
            constants={"own_prompts": own},
        )
        prompts = rehearsal(order, self.folder, data, own)
        result = train(policy, data.training, prompts, config, self.reporter, checkpoints, resume)
        if not result.finished:
            raise Drained
        return result

    def cost(self, result: TrainResult) -> Cost:
        """What the job took so far; a resumed attempt knows its own seconds only."""
        return Cost(
            seconds=self.phase.seconds,
            trained_tokens=result.trained_tokens,
            generated_tokens=result.generated_tokens,
            peak_memory_bytes=memory.peak_bytes(),
        )


def _agrees(item: Item, answer: str) -> bool:
    """Whether a demonstration would be right where an earlier one is expected."""
    try:
        return SCORERS[item.scorer].score(answer, item.expected, tolerance=item.tolerance) > 0
    except CannotScore:
        return True


def open_attempt(folder: Path, reporter: PipeReporter, base: Base | None = None) -> Training | Evaluation:
    """The attempt that a folder's order describes."""
    order = ORDERS.validate_json((folder / ORDER_NAME).read_bytes())
    if isinstance(order, EvaluationOrder):
        return Evaluation(folder, order, reporter, base)
    return Training(folder, reporter, base)
