"""The version beside its supervised twin: what plain fine-tuning on the same data learned, kept and took."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from worker.evals.kept import count_kept, list_flips
from worker.evals.marks import Marks
from worker.evals.schema import SuiteReport, Supervised, TwinRun
from worker.evals.statistics import Verdict

_WORDS: Final[Mapping[Verdict, str]] = {
    "better": "better",
    "worse": "worse",
    "same": "the same",
    "insufficient_evidence": "too few questions to tell",
}


def beside_supervised(marked: Sequence[Marks], suites: Sequence[SuiteReport], run: TwinRun) -> Supervised:
    """What became of the twin.

    Args:
        marked: All suites, the arm ``supervised`` among those asked; of a harness it may be missing.
        suites: The same, reported.
        run: What it trained with and took.
    """
    asked = [marks for marks in marked if "supervised" in marks.answers]
    retention = [marks for marks in asked if marks.suite.judged and marks.suite.role != "skill"]
    verdicts = {
        suite.name: _WORDS[one.verdict] for suite in suites for one in suite.comparisons if one.against == "supervised"
    }
    found = [*_learned(suites, verdicts), *(_kept(marks, verdicts) for marks in retention if marks.items)]
    return Supervised(
        sentence=f"Plain fine-tuning on the same data: {'; '.join(found)}. {_cost(run)}",
        kept=[row for marks in retention for row in count_kept(marks, "supervised")],
        flips={marks.suite.name: changed for marks in asked if (changed := list_flips(marks, "supervised"))},
        run=run,
    )


def _learned(suites: Sequence[SuiteReport], verdicts: Mapping[str, str]) -> Iterator[str]:
    for suite in suites:
        if suite.role == "skill" and suite.n:
            arms = {score.arm: score for score in suite.arms}
            twin, version = arms["supervised"], arms["candidate"]
            said = verdicts[suite.name]
            if suite.measure == "share_right":
                yield f"learned {twin.num_right} of {suite.n} (this version {version.num_right}: {said})"
            else:
                yield (
                    f"log-likelihood of the demonstrations {twin.score.value:.2f} "
                    f"(this version {version.score.value:.2f}: {said})"
                )


def _kept(marks: Marks, verdicts: Mapping[str, str]) -> str:
    """Of one suite, what is left of what the starting point had right; the verdict is on the whole score beside it."""
    twin, version = (
        next(row for row in count_kept(marks, arm) if (row.reference, row.group) == (marks.reference, "all"))
        for arm in ("supervised", "candidate")
    )
    kept = f"kept {twin.num_kept} of {twin.num_had} in {twin.suite} (this version {version.num_kept})"
    right, of_version = (sum(marks.right(arm)) for arm in ("supervised", "candidate"))
    said = verdicts[marks.suite.name]
    return f"{kept}, in all {right} of {len(marks.items)} right (this version {of_version}: {said})"


def _cost(run: TwinRun) -> str:
    return f"Its training took {run.seconds:.0f} s, this version's {run.cost_ratio:.1f} times as long."
