"""An evaluation asked for by itself, in the trainer process: load a version, ask, report. Trains nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.demonstrations import Demonstration, read_demonstrations
from app.domain.questions import stream_questions
from app.domain.trainer_protocol import EarlierSkill, EvaluationOrder
from worker import memory
from worker.answers import answer_memory
from worker.circumstances import circumstances
from worker.dataset import caveats_of_deleted, past_scores, question_digests
from worker.evals.page import render_html
from worker.evals.report import build_report
from worker.evals.run import ArmName, Measured, Peculiar, evaluate
from worker.evals.schema import Cost, Report
from worker.evals.scorers import ScorerChoice
from worker.evals.suites import (
    Split,
    Suite,
    demonstration_suite,
    general_suite,
    question_suite,
)
from worker.harness import open_tasks
from worker.hf.base import Base
from worker.hf.model import HfPolicy
from worker.reporting import PhaseClock, PipeReporter, RunFailed
from worker.seen import Seen, deleted

HELD_OUT = (
    "The questions were held out when each version was made. One that neither goes on from that version nor came "
    "before it may have been trained on some."
)


class Evaluation:
    """One try at an evaluation.

    Args:
        folder: Laid out by the supervisor, the order in it.
        order: Read from there.
        reporter: To the supervisor.
        base: The order's, if an earlier attempt of this process has loaded it.

    Attributes:
        base: Loaded by ``run`` if it was not given.
    """

    def __init__(self, folder: Path, order: EvaluationOrder, reporter: PipeReporter, base: Base | None = None) -> None:
        self.folder, self.order, self.reporter, self.base = folder, order, reporter, base
        self.phase = PhaseClock(reporter)

    def run(self) -> None:
        """Do what the order says.

        Raises:
            RunFailed: A task of lm-evaluation-harness cannot be asked here.
            Drained: The supervisor asked to leave; the questions will be asked anew.
        """
        memory.reset_peak()
        with self.phase("loading"):
            base = self.base = self.base or Base.load(
                Path(self.order.base.path), device=self.order.device, num_threads=self.order.num_threads
            )
            policy = self.load(base)
            suites, heldout = self.suites()
            tasks = self.tasks(policy)
        with self.phase("evaluating"):
            measured = evaluate(
                policy,
                suites,
                has_parent=self.order.against is not None,
                template=None,
                memory=answer_memory(self.order, policy),
                on_progress=self.reporter.progress,
                peculiar=tasks,
            )
        if not measured.suites:
            raise RunFailed("suite_unavailable", " ".join(measured.notes), "suites")
        with self.phase("exporting"):
            self.export(self.report(measured, heldout, circumstances(policy.device)))
        self.reporter.report_finished()

    def load(self, base: Base) -> HfPolicy:
        """The version as the candidate, and the one beside it as the parent."""
        against = self.folder / "parent" if self.order.against else None
        policy = HfPolicy.published(base, self.folder / "version", parent=against)
        policy.on_work = self.reporter.working
        return policy

    @property
    def own_skill(self) -> EarlierSkill | None:
        """What the version itself was taught, if that is asked about."""
        named = (self.order.version.adapter, self.order.version.version)
        return next((one for one in self.order.skills if (one.adapter, one.version) == named), None)

    def suites(self) -> tuple[list[Suite], list[Demonstration]]:
        """What is asked, and of that what was held out of the version's own skill."""
        suites, own, seen = [], [], Seen(self.order, self.folder)
        for skill in self.order.skills:
            questions = read_demonstrations(self.folder / skill.path)
            is_own, label = skill == self.own_skill, f"{skill.adapter}:{skill.version}"
            own += questions if is_own else []
            suite = demonstration_suite(
                skill.adapter if is_own else label,
                "skill" if is_own else "earlier" if skill.inherited else "other",
                questions,
                scorer=skill.scorer,
                max_new_tokens=skill.max_completion_tokens,
                tolerance=skill.tolerance,
            )
            suites.append(seen.count(suite, skill_of=label))
        clients = [
            seen.count(question_suite(suite.name, list(stream_questions(self.folder / suite.path))))
            for suite in self.order.suites
        ]
        general = [seen.count(general_suite(rehearsed=self.order.rehearsed))] if self.order.general else []
        return [*suites, *general, *clients], own

    def tasks(self, policy: HfPolicy) -> Sequence[Peculiar]:
        """Tasks of lm-evaluation-harness, found before anything is asked.

        Raises:
            RunFailed: Some cannot be asked here.
        """
        tasks, missing = open_tasks(self.order, policy)
        if missing:
            raise RunFailed("suite_unavailable", " ".join(dict.fromkeys(missing.values())), "suites")
        return tasks

    def scorer(self) -> ScorerChoice | None:
        """What the report says of scorers: nothing is chosen here."""
        if self.own_skill is None:
            return None
        return ScorerChoice(self.own_skill.scorer, "each skill is judged as when it was taught")

    def names(self) -> dict[ArmName, str]:
        """What the arms are called as versions."""
        named: dict[ArmName, str] = {"candidate": self.order.version.label}
        return named | {"parent": self.order.against.label} if self.order.against else named

    def report(self, measured: Measured, heldout: list[Demonstration], circumstances: dict[str, Any]) -> Report:
        """Judge what was measured, as after training, but without what only training knows."""
        order = self.order
        return build_report(
            measured,
            title=order.version.model_id,
            scorer=self.scorer(),
            split=Split([], heldout, HELD_OUT if order.skills else None, tuple(caveats_of_deleted(deleted(order)))),
            template=None,
            cost=Cost(
                seconds=self.phase.seconds,
                trained_tokens=0,
                generated_tokens=0,
                peak_memory_bytes=memory.peak_bytes(),
            ),
            provenance={
                "base": order.base.model_dump(exclude={"path"}),
                "version": order.version.model_dump(),
                "against": order.against.model_dump() if order.against else None,
                "questions_sha256": question_digests(order.skills, order.suites, measured.suites),
                **circumstances,
            },
            names=self.names(),
            beside=order.against.label if order.against and not order.goes_on else None,
            past=past_scores(order),
        )

    def export(self, report: Report) -> None:
        """Write ``out/``."""
        out = self.folder / "out"
        out.mkdir()
        (out / "report.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
        (out / "report.html").write_text(render_html(report), encoding="utf-8")
