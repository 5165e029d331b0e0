"""What a finished run leaves in ``out/``: the adapter's folder and tar, the report, the held-out demonstrations.

Writes facts only; judges nothing. The last word has stock PEFT, in a clean process.
"""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from app.domain.gate import GateDecision, decide
from app.domain.trainer_protocol import Order
from app.domain.training import TrainingConfig
from worker import memory
from worker.circumstances import circumstances
from worker.dataset import question_digests
from worker.evals.page import render_html
from worker.evals.schema import Report
from worker.evals.suites import Split, Suite, render_demonstrations
from worker.hf import load_check
from worker.hf.adapter_files import finish_folder, model_card, write_tar
from worker.hf.model import HfPolicy
from worker.reporting import RunFailed
from worker.sdft.prompts import TEMPLATES

NLL_TOLERANCE: Final = {"cpu": 1e-3, "cuda": 0.05}
"""Nats per token, relative beyond 1, by where this process computed: stock PEFT is asked in fp32 on the CPU, and a
bf16 base on a GPU answers a little differently."""
NUM_PROBES: Final = 8
WAIT_SECONDS: Final = 5


class LoadCheckFailed(Exception):
    """The finished adapter does not do in stock PEFT what it did here."""


def provenance(
    order: Order, config: TrainingConfig, *, data: Split, policy: HfPolicy, asked: Sequence[Suite]
) -> dict[str, Any]:
    """All that identifies a run: what was trained, on what, with what, and what it was asked."""
    template = TEMPLATES.get(config.template)
    return {
        "job_id": order.job_id,
        "adapter": order.adapter,
        "base": order.base.model_dump(exclude={"path"}),
        "parent": order.parent.model_dump() if order.parent else None,
        "config": config.model_dump(),
        "requested": order.hyperparameters.model_dump(),
        "template": {"name": config.template, "version": template.version, "text": template.text} if template else None,
        "data": {
            "training_sha256": order.training_sha256,
            "validation_sha256": order.validation_sha256,
            "num_trained": len(data.training),
            "num_with_document": sum(one.document is not None for one in data.training),
            "num_heldout": len(data.heldout),
            "heldout_sha256": data.sha256 if data.heldout else None,
        },
        "questions_sha256": question_digests(order.earlier, order.suites, asked),
        **circumstances(policy.device),
    }


def export(
    order: Order, folder: Path, policy: HfPolicy, *, config: TrainingConfig, data: Split, report: Report
) -> None:
    """Write ``out/``; the adapter's tar last."""
    out = folder / "out"
    adapter = out / "adapter"
    gate = _gate(order, report)
    policy.save_adapter(adapter, base_name=order.base.peft_name, base_revision=order.base.revision)
    card = model_card(
        base=order.base,
        facts={
            "version": order.version_name,
            "made by job": order.job_id,
            "method": config.method,
            "started from": order.parent.model_id if order.parent else "the base",
            "demonstrations": len(data.training),
            "steps": config.total_steps,
            **({"offline rollouts": f"{config.offline_share:.0%}"} if config.offline_share else {}),
            "LoRA": f"rank {config.lora_rank}, alpha {config.lora_alpha}",
            **({"chat template": "asked with `enable_thinking=False`"} if policy.told_not_to_think else {}),
        },
        results="\n".join([f"**{report.summary.headline}**", "", *(f"- {line}" for line in _findings(report, gate))]),
    )
    finish_folder(adapter, card=card, provenance=report.provenance)
    (out / "report.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
    (out / "report.html").write_text(render_html(report, gate), encoding="utf-8")
    if data.heldout:
        (out / "heldout.jsonl").write_text(render_demonstrations(data.heldout), encoding="utf-8")
    write_tar(adapter, out / "adapter.tar")


def check_loading(order: Order, folder: Path, policy: HfPolicy, data: Split) -> None:
    """Have stock PEFT load the folder in a clean process and say what it makes of some demonstrations.

    Raises:
        RunFailed: The system ended that process.
        LoadCheckFailed: It cannot, or its answer is another than ours.
    """
    probes = (data.heldout or data.training)[:NUM_PROBES]
    prompts = [policy.encode_chat(probe.messages) for probe in probes]
    completions = [policy.encode_completion(probe.completion) for probe in probes]
    ours = fmean(policy.nll(prompts, completions, arm="student"))
    policy.rest()
    memory.give_back()  # the other process needs room for a base of its own
    questions = [{"prompt": prompt, "completion": said} for prompt, said in zip(prompts, completions, strict=True)]
    # By path and isolated: nothing of this package can help it.
    command = [sys.executable, "-I", load_check.__file__, order.base.path, str(folder / "out" / "adapter")]
    status, said, complained = _run(command, json.dumps(questions), policy.on_work)
    if status == -signal.SIGKILL:
        raise RunFailed(
            "out_of_memory",
            "The finished adapter could not be tried in a process of its own, which needs 4 bytes of the worker's "
            "memory for each of the base's parameters.",
        )
    if status:
        raise LoadCheckFailed(complained)
    theirs = fmean(json.loads(said.splitlines()[-1]))
    tolerance = NLL_TOLERANCE[policy.device.type]
    if not math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance):
        raise LoadCheckFailed(f"nll {theirs} in stock PEFT, {ours} here")


def _run(command: list[str], text: str, on_wait: Callable[[], None]) -> tuple[int, str, str]:
    """Exit status and output of a command that is told something, and whom to tell that it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        told: str | None = text
        while True:
            try:
                said, complained = process.communicate(told, timeout=WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                told = None
                on_wait()
            else:
                return process.returncode, said, complained


def _gate(order: Order, report: Report) -> GateDecision | None:
    """As it will be decided when the version is published: by the same rule, from the same numbers."""
    if order.gate is None:
        return None
    made = report.model_dump(mode="json")
    return decide(order.gate, made["suites"], made["unjudged"], made["lineage"])


def _findings(report: Report, gate: GateDecision | None) -> list[str]:
    summary = report.summary
    beside = [report.supervised.sentence] if report.supervised else []
    passed = [f"Gate: {gate.verdict.replace('_', ' ')}. {gate.rule.sentence}"] if gate else []
    return [
        *passed,
        summary.skill.sentence,
        *summary.retention.sentence.splitlines(),
        summary.ceiling.sentence,
        *beside,
        *report.caveats,
    ]
