"""Tasks of lm-evaluation-harness as suites: its prompts, filters and metrics, asked of a policy's arms, item by item.

Needs the extra ``lm-eval``. A task is asked as the harness asks a chat model: through the base's chat template, with
examples as turns. Of a task's metrics the first one counts that is right or wrong on every item.
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any, Final, Self

from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks import TaskManager

from worker import memory
from worker.evals.run import Answer
from worker.evals.suites import Item, Suite, Unaskable
from worker.hf.model import HfPolicy
from worker.reporting import Drained
from worker.sdft.policy import Arm

MAX_ITEMS: Final = 2000
"""Of a suite, as of a client's file; of more every so-manieth is asked."""
FEWSHOT_SEED: Final = 1234
"""The harness's own default."""
DEFAULT_NEW_TOKENS: Final = 256
"""Likewise."""
LOT: Final = 64
"""Requests between two words to the supervisor."""
VERDICTS: Final = frozenset({"acc", "accuracy", "exact", "em", "pass"})
"""Words in the names of metrics that are right or wrong, and not partly: of several, one of these counts."""
PROBED: Final = 16
"""Items whose half-right answers show which metrics give parts of a point."""

Sample = Mapping[str, Any]
"""What the harness logs of one item under one filter."""


class _Prompts(TemplateLM):  # type: ignore[misc]
    """Answers nothing: the harness run on it tells what a task would ask, and whether it can mark an answer.

    Args:
        policy: Whose tokens and chat template to use.
    """

    eot_token_id = property(lambda self: min(self.policy.stop_ids))
    tokenizer_name = "the base's"

    def __init__(self, policy: HfPolicy) -> None:
        super().__init__()
        self.policy = policy

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return self.policy.encode_text(string)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:  # noqa: FBT001, FBT002
        return self.policy.prompt_text(chat_history, goes_on=not add_generation_prompt)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:  # noqa: ARG002
        raise ValueError("a perplexity is neither right nor wrong")

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        return [""] * len(requests)

    def fits(self, arguments: tuple[str, Any]) -> bool:
        """Whether a request leaves room for its answer."""
        prompt, asked = arguments
        room = _limit(asked) if isinstance(asked, Mapping) else len(self.tok_encode(asked))
        return len(self.tok_encode(prompt)) + room <= self.policy.context_tokens


class _Arm(_Prompts):
    """One arm. What does not fit the context gets the answer of ``_Prompts`` and counts for nobody.

    Args:
        policy: Which has the arm.
        arm: Whose weights.
        on_requests: Told how many of how many requests are done.
    """

    def __init__(self, policy: HfPolicy, arm: Arm, on_requests: Callable[[int, int], None]) -> None:
        super().__init__(policy)
        self._arm, self._on_requests = arm, on_requests

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        found = super()._loglikelihood_tokens(requests)
        lengths = [len(prompt) + len(said) for _, prompt, said in requests]
        fitting = [place for place, length in enumerate(lengths) if length <= self.policy.context_tokens]
        for lot in self._lots(sorted(fitting, key=lengths.__getitem__)):
            pairs = [requests[place][1:] for place in lot]
            likely = self.policy.likelihoods([pair[0] for pair in pairs], [pair[1] for pair in pairs], arm=self._arm)
            for place, one in zip(lot, likely, strict=True):
                found[place] = one
        return found

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        found = super().generate_until(requests)
        for lot in self._lots([place for place, request in enumerate(requests) if self.fits(request.args)]):
            prompts, asked = zip(*(requests[place].args for place in lot), strict=True)
            ids = [self.tok_encode(prompt) for prompt in prompts]
            rollouts = self.policy.greedy(ids, [_limit(one) for one in asked], arm=self._arm)
            for place, one, rollout in zip(lot, asked, rollouts, strict=True):
                found[place] = postprocess_generated_text(self.policy.decode(rollout.ids), one.get("until"), None)
        return found

    def _lots(self, places: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(places), LOT):
            yield places[start : start + LOT]
            self._on_requests(min(start + LOT, len(places)), len(places))


@dataclass(frozen=True)
class LmEvalSuite:
    """A task or a group of them, loaded, tried without a model, and ready to be asked.

    Args:
        suite: Its items; kinds are its tasks.
        notes: Items that were left out.
        policy: Of which every arm is asked.
        tasks: Of the harness, by name.
        chosen: Places of the items that the harness is to look at, by task.
        metrics: By task, the metric and the filter that count.
    """

    suite: Suite
    notes: Sequence[str]
    policy: HfPolicy
    tasks: Mapping[str, Any]
    chosen: Mapping[str, list[int]]
    metrics: Mapping[str, tuple[str, str]]

    @classmethod
    def load(cls, manager: TaskManager, name: str, policy: HfPolicy) -> Self:
        """Find a task, read its data and let the harness mark empty answers.

        Raises:
            Unaskable: One of these cannot be done here.
        """
        if name not in manager.all_tasks:
            raise Unaskable(_unknown(manager, name))
        prompts = _Prompts(policy)
        with _told(name):
            tasks = {label: _prepared(task) for label, task in manager.load(name)["tasks"].items()}
            chosen = _choose({label: len(task.eval_docs) for label, task in tasks.items()})
            samples = _run(prompts, tasks, chosen)
            metrics = {label: _metric(tasks[label], label, rows) for label, rows in samples.items()}
            rows = list(_rows(samples, metrics))
            items = tuple(
                _item(task, row, metrics[task]) for task, row in rows if all(map(prompts.fits, row["arguments"]))
            )
        if not items:
            raise Unaskable(
                f"lm_eval:{name}: no item fits the {policy.context_tokens} tokens of the base; leave it out."
            )
        notes = _left_out(name, sum(len(task.eval_docs) for task in tasks.values()), len(rows), len(items))
        return cls(Suite(f"lm_eval:{name}", "client", items), notes, policy, tasks, chosen, metrics)

    def of(self, policy: HfPolicy) -> Self:
        """See ``worker.harness.Task``."""
        return replace(self, policy=policy)

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        """See ``Peculiar``."""
        count = len(self.suite.items)
        lm = _Arm(self.policy, arm, lambda done, total: on_items(count * done // total))
        with _told(self.suite.name.removeprefix("lm_eval:")):
            samples = _run(lm, self.tasks, self.chosen)
            asked = {item.id for item in self.suite.items}
            return [
                Answer(_said(row), (), stopped=True, mark=float(row[self.metrics[task][0]]))
                for task, row in _rows(samples, self.metrics)
                if _id(task, row) in asked
            ]


def open_manager(folder: Path | None) -> TaskManager:
    """All tasks of the harness and those of the operator, which go before.

    Args:
        folder: With task YAMLs.

    Raises:
        Unaskable: The folder is not there, or holds what is no task.
    """
    if folder is not None and not folder.is_dir():
        raise Unaskable("The worker's folder of tasks is not there; the operator sets SDFT_WORKER__LM_EVAL_TASKS.")
    return TaskManager(include_path=folder)


def _prepared(task: Any) -> Any:
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    return task


def _run(lm: _Prompts, tasks: Mapping[str, Any], chosen: Mapping[str, list[int]]) -> Mapping[str, list[Sample]]:
    """Have the harness ask and mark; every call asks the same."""
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    results = evaluate(
        lm,
        {"tasks": dict(tasks)},
        samples=dict(chosen),
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    found: Mapping[str, list[Sample]] = results["samples"]
    return found


def _choose(sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Items of each task, evenly spread."""
    step = max(1, ceil(sum(sizes.values()) / MAX_ITEMS))
    return {label: list(range(0, size, step)) for label, size in sizes.items()}


def _metric(task: Any, label: str, rows: Sequence[Sample]) -> tuple[str, str]:
    """The metric and the filter by which a task's items are right or wrong.

    Args:
        task: Which marks.
        label: Its name.
        rows: Its marks of empty answers, which tell only some metrics that give parts of a point.
    """
    first = [row for row in rows if row["filter"] == rows[0]["filter"]]
    marks = [*first, *(_half_right(task, row) for row in first[:PROBED] if isinstance(row["filtered_resps"][0], str))]
    judged = [name for name in first[0]["metrics"] if all(row[name] in (0, 1) for row in marks)]
    if not judged:
        raise ValueError(f"no metric of {label} calls an item right or wrong")
    verdicts = [name for name in judged if VERDICTS & set(re.split(r"[\W_]+", name))]
    return (verdicts or judged)[0], rows[0]["filter"]


def _half_right(task: Any, row: Sample) -> Mapping[str, Any]:
    """Marks of what is expected with other words behind it."""
    marks: Mapping[str, Any] = task.process_results(row["doc"], [f"{(_expected(row) or ('',))[0]} and nothing else"])
    return marks


def _rows(samples: Mapping[str, list[Sample]], metrics: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, Sample]]:
    """One sample an item, with its task."""
    for task, rows in samples.items():
        yield from ((task, row) for row in rows if row["filter"] == metrics[task][1])


def _id(task: str, row: Sample) -> str:
    return f"{task} {row['doc_id']}"


def _item(task: str, row: Sample, metric: tuple[str, str]) -> Item:
    prompt, asked = row["arguments"][0]
    name = metric[0] if metric[1] == "none" else f"{metric[0]}, {metric[1]}"
    return Item(
        id=_id(task, row),
        kind=task,
        messages=({"role": "user", "content": prompt},),
        expected=_expected(row),
        scorer=f"{name} of lm_eval {metadata.version('lm_eval')}",
        max_new_tokens=_limit(asked) if isinstance(asked, Mapping) else 0,
    )


def _expected(row: Sample) -> tuple[str, ...]:
    """What the task calls right; of choices it knows the place."""
    target, choices = row["target"], row["arguments"]
    if isinstance(target, int) and isinstance(choices[0][1], str) and target < len(choices):
        return (choices[target][1].strip(),)
    return tuple(map(str, target)) if isinstance(target, list) else (str(target),)


def _said(row: Sample) -> str:
    """What was generated, or the likeliest choice, or how likely a text was."""
    answers = [answer[0] for answer in row["resps"]]
    if isinstance(answers[0], str):
        return answers[0]
    if len(answers) == 1:
        return f"log-likelihood {answers[0][0]:.2f}"
    best = max(range(len(answers)), key=lambda place: answers[place][0])
    return str(row["arguments"][best][1]).strip()


def _limit(asked: Mapping[str, Any]) -> int:
    """New tokens that a generated answer may have."""
    return int(asked.get("max_gen_toks", DEFAULT_NEW_TOKENS))


def _left_out(name: str, num_all: int, num_chosen: int, num_asked: int) -> list[str]:
    notes = []
    if num_chosen < num_all:
        notes.append(f"lm_eval:{name}: {num_chosen} of {num_all} items were chosen, evenly spread.")
    if num_asked < num_chosen:
        notes.append(f"lm_eval:{name}: {num_chosen - num_asked} items did not fit the context of the base model.")
    return notes


def _unknown(manager: TaskManager, name: str) -> str:
    near = get_close_matches(name, manager.all_tasks, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"There is no task {name} in lm-evaluation-harness {metadata.version('lm_eval')} or in the operator's folder."
        f"{hint} Correct it among the suites or leave it out."
    )


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever a task does wrong is the task's: the job goes on without it, or is told before it has trained."""
    try:
        yield
    except Drained:
        raise
    except (FileNotFoundError, ConnectionError) as error:
        traceback.print_exc()  # for the operator: the end of the trainer's output is in the log
        raise Unaskable(
            f"The data of lm_eval:{name} are not on the worker, which fetches nothing. Leave it out of "
            "the suites, or have the operator put them there (docs/evaluation.md says how)."
        ) from error
    except Exception as error:
        if memory.ran_out(error):
            raise
        traceback.print_exc()
        raise Unaskable(
            f"lm_eval:{name} cannot be asked here: {type(error).__name__}: {str(error)[:300]}. Leave it out of "
            "the suites, or have the operator see to it."
        ) from error
