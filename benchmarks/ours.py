"""Our training loop as an arm: ``worker.trainer.train`` as a job runs it, with a reporter that waits for its turn."""

import sys
from dataclasses import asdict
from itertools import cycle, islice
from statistics import fmean
from typing import Any

from app.domain.training import TrainingConfig
from benchmarks.arithmetic import Work, measure
from benchmarks.arms import Order
from benchmarks.setting import Setting
from benchmarks.turnstile import Turnstile, peak_memory_bytes
from worker.evals.suites import neutral_prompts
from worker.examples import encode_rehearsal, encode_tasks
from worker.hf.model import HfPolicy
from worker.trainer import train


class TurnstileReporter:
    """Passes the turn on after each step."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile

    def step(self, _step: int, _total_steps: int, _trained_tokens: int, metrics: dict[str, float]) -> None:
        """Seconds by phase, and tokens said."""
        phases = {
            name.removeprefix("seconds_"): seconds for name, seconds in metrics.items() if name.startswith("seconds_")
        }
        tokens = round(metrics["tokens_per_second"] * sum(phases.values()))
        self._turnstile.pass_on(phases=phases, tokens=tokens, loss=metrics["train_loss"])

    def event(self, level: str, message: str, **data: Any) -> None:  # noqa: ARG002
        """To the log."""
        print(message)

    def checkpoint(self, *_: Any) -> None:
        """None is written."""

    def should_stop(self) -> bool:
        """Never."""
        return False


def main() -> None:
    """One arm, from its order on the command line to its last word."""
    order, turnstile = Order.from_json(sys.argv[1]), Turnstile()
    setting = Setting(order)
    config, policy = setting.config(**order.settings), setting.policy()
    if order.new_tokens:
        force_length(policy, order.new_tokens)
    work = expected_work(policy, setting, config)
    turnstile.pass_on(size=asdict(measure(policy._peft)), work=asdict(work))  # noqa: SLF001
    train(policy, setting.demonstrations, {"base": neutral_prompts()}, config, TurnstileReporter(turnstile), None)
    peak = peak_memory_bytes()
    scores = {} if order.new_tokens else {"score": setting.score(policy), "base_score": setting.score(policy, "base")}
    turnstile.say(peak_memory_bytes=peak, **scores)


def force_length(policy: HfPolicy, new_tokens: int) -> None:
    """Every rollout goes on to its limit, and every demonstration is repeated up to it."""
    policy.stop_ids = frozenset()
    encode = policy.encode_completion
    policy.encode_completion = lambda text: list(islice(cycle(encode(text)), new_tokens))


def expected_work(policy: HfPolicy, setting: Setting, config: TrainingConfig) -> Work:
    """Tokens of a step, from means over the data."""
    tasks = [(config.num_rollouts, encode_tasks(policy, setting.demonstrations, config))]
    if config.num_rehearsal:
        tasks.append((config.num_rehearsal, encode_rehearsal(policy, {"base": neutral_prompts()}, config)))
    prompt = sum(count * fmean(len(task.prompt) for task in kind) for count, kind in tasks)
    teacher_prompt = sum(count * fmean(len(task.teacher_prompt) for task in kind) for count, kind in tasks)
    supervised = config.method == "supervised"
    answer: float = config.max_completion_tokens
    if supervised:
        answer = fmean(len(task.answer) for task in tasks[0][1])
    return Work(prompt, None if supervised else teacher_prompt, answer * sum(count for count, _ in tasks))


if __name__ == "__main__":
    main()
