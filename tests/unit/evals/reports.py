"""Reports of every shape, made by hand."""

from collections.abc import Sequence
from typing import Any

from worker.evals.schema import Report

Row = dict[str, Any]


def bounds(value: float, low: float | None = None, high: float | None = None) -> Row:
    return {
        "value": value,
        "low": value - 0.05 if low is None else low,
        "high": value + 0.05 if high is None else high,
    }


def suite(
    role: str, *arms: str, name: str | None = None, measure: str = "share_right", text: str = "plain", n: int = 40
) -> Row:
    """A suite; each arm scores a tenth more than the one before it."""
    judged = measure == "share_right"
    start = 0.1 if judged else -3.0
    scores = {arm: start + 0.1 * index for index, arm in enumerate(arms)}
    before = [arm for arm in arms if arm in {"base", "parent"}]
    trained = [arm for arm in arms if arm in {"candidate", "supervised"}]
    answers = dict.fromkeys(arms, text)
    flip = {"kind": "k", "against": before[-1:], "prompt": text, "expected": [text], "answers": answers}
    counts = {"num_lost": 1 if judged else None, "num_gained": 1 if judged else None}
    return {
        "name": name or role,
        "role": role,
        "measure": measure,
        "scorers": {"normalized": 1},
        "n": n,
        "arms": [
            {
                "arm": arm,
                "num_right": round(n * score) if judged else None,
                "score": bounds(score),
                "nll": None,
                "field_f1": None,
            }
            for arm, score in scores.items()
        ],
        "comparisons": [
            {
                "against": arm,
                "difference": bounds(scores["candidate"] - scores[arm]),
                "num_lost": 1 if judged else None,
                "num_gained": 2 if judged else None,
                "p_value": 0.01,
                "verdict": "same",
            }
            for arm in arms
            if arm not in {"candidate", "ceiling"}
        ],
        "changes": [
            {"arm": arm, "against": old, "difference": bounds(scores[arm] - scores[old])} | counts
            for arm in trained
            for old in before
        ],
        "flips": [flip | {"item": change, "change": change} for change in ("lost", "gained")] if judged else [],
    }


def kept(name: str, group: str = "all", *, had: int = 20, reference: str = "base") -> Row:
    return {
        "suite": name,
        "group": group,
        "num_kinds": 1,
        "num_rehearsed_kinds": 1,
        "reference": reference,
        "n": 30,
        "num_had": had,
        "num_kept": had // 2,
        "num_gained": 3,
        "share": bounds(0.5) if had else None,
    }


def report(*suites: Row, text: str = "plain", lineage: Sequence[Row] = (), **values: Any) -> Report:
    """A report on these suites; ``text`` wherever data may say anything."""
    judged = [one for one in suites if one["role"] != "skill" and one["measure"] == "share_right"]
    looks = {"truncated": 0.25, "distinct_4": 1.0, "artefacts": 0.0, "copied": 0.5, "entropy": 0.75}
    plain = {
        "title": text,
        "summary": {
            "recommendation": "do_not_ship",
            "headline": "Do not ship it: the skill was not learned.",
            "skill": {"verdict": "same", "sentence": text},
            "retention": {"verdict": "same", "sentence": text},
            "ceiling": {"share": None, "sentence": text},
        },
        "suites": suites,
        "lineage": lineage,
        "kept": [kept(one["name"], group) for one in judged for group in ("all", "rehearsed kinds", "facts")],
        "drift": [
            {"prompts": "task", "n": 16, "base_to_candidate": 0.5, "candidate_to_base": 0.25, "candidate_overlap": 0.8}
        ],
        "weights": [{"arm": "candidate", "module": "q_proj", "norm": 1.5, "share": 0.0125}],
        "behaviour": [
            {"suite": one["name"], "arm": arm["arm"], "mean_tokens": 4.0, "lengths": [0, 3, 3, 10]} | looks
            for one in suites
            for arm in one["arms"]
        ],
        "method": {
            "scorer": "normalized",
            "scorer_reason": text,
            "split": text,
            "heldout_sha256": "ab" * 32,
            "template": None,
            "answers_reused": {text: ["base", "parent"]},
            "margin": 0.1,
            "resamples": 10_000,
            "seed": 0,
        },
        "caveats": [text],
        "errors": [{"suite": text, "item": "1", "arm": "base", "scorer": "json", "message": text}],
        "cost": {
            "seconds": {"loading": 25.0, "evaluating": 75.0, "evaluation_answers": 60.0},
            "trained_tokens": 1,
            "generated_tokens": 2,
            "peak_memory_bytes": 3,
        },
        "provenance": {"config": {"note": text, "teacher": {"kind": text}}, "seed": 1, "seeds": [1], "parent": None},
    }
    return Report.model_validate(plain | values)


def lineage(name: str = "home:1") -> list[Row]:
    """Two skills, of which the second was never asked of the base."""
    rows = [("base", name, 0.0), ("home:1", name, 1.0), ("home:1", "skill", 0.2), ("candidate", name, 0.6)]
    rows.append(("candidate", "skill", 0.9))
    return [{"version": version, "suite": skill, "score": bounds(score)} for version, skill, score in rows]


def seed_score(name: str, value: float, *, measure: str = "share_right", had: int | None = None) -> Row:
    row = {"suite": name, "measure": measure, "arm": "candidate", "n": 40, "score": bounds(value)}
    return row | {"kept": None if had is None else kept(name, had=had)}


def spread(name: str, low: float, high: float, *, measure: str = "share_right", kept: Row | None = None) -> Row:
    score = {"mean": (low + high) / 2, "low": low, "high": high}
    return {"suite": name, "measure": measure, "arm": "candidate", "num_seeds": 2, "score": score, "kept": kept}


def expecting_nothing(asked: Row) -> Row:
    """As a task of lm-evaluation-harness may: silence is right."""
    return asked | {"flips": [flip | {"expected": []} for flip in asked["flips"]]}


SHAPES: dict[str, Report] = {
    "a first version": report(suite("skill", "base", "candidate", "ceiling"), suite("general", "base", "candidate")),
    "a later version": report(
        suite("skill", "base", "parent", "candidate", "ceiling"),
        suite("earlier", "parent", "candidate", name="home:1"),
        suite("general", "base", "parent", "candidate"),
        lineage=lineage(),
    ),
    "no ceiling": report(suite("skill", "base", "candidate"), suite("general", "base", "candidate")),
    "free text": report(
        suite("skill", "base", "parent", "candidate", "ceiling", measure="negative_nll"),
        suite("earlier", "parent", "candidate", name="home:1", measure="negative_nll"),
        suite("general", "base", "parent", "candidate"),
        lineage=lineage(),
    ),
    "nothing expected": report(expecting_nothing(suite("client", "base", "candidate", name="lm_eval:quiet"))),
    "nothing held out": report(suite("general", "base", "candidate")),
    "nothing but the skill": report(suite("skill", "base", "candidate"), kept=[], drift=[]),
    "nothing asked": report(kept=[], drift=[], cost={
        "seconds": {}, "trained_tokens": 0, "generated_tokens": 0, "peak_memory_bytes": None,
    }),
    "an extra arm": report(
        suite("skill", "base", "candidate", "supervised", "ceiling"),
        suite("general", "base", "candidate", "supervised"),
        drift=[{
            "prompts": "task", "n": 16, "base_to_candidate": 0.5, "candidate_to_base": 0.25, "candidate_overlap": 0.8,
            "base_to_supervised": 1.5, "supervised_to_base": 1.25, "supervised_overlap": 0.4,
        }],
        weights=[
            {"arm": arm, "module": "q_proj", "norm": 1.5, "share": share}
            for arm, share in (("candidate", 0.0125), ("supervised", 0.025))
        ],
        supervised={
            "sentence": "Plain fine-tuning on the same data: learned 4 of 20. <b>",
            "kept": [kept("general", group, had=12) for group in ("all", "other kinds", "facts")],
            "flips": {"general": [
                {"item": change, "kind": "k", "change": change, "against": ["base"], "prompt": f"{change}?",
                 "expected": ["yes"],
                 "answers": {"base": "yes", "candidate": "yes", "supervised": f"{change} by the twin"}}
                for change in ("lost", "gained")
            ]},
            "run": {"config": {}, "trained_tokens": 9, "seconds": 20.0, "cost_ratio": 2.5},
        },
    ),
    "several seeds": report(
        suite("skill", "base", "candidate", measure="negative_nll"),
        suite("general", "base", "candidate"),
        replicates={
            "runs": [
                {"seed": 7, "recommendation": "do_not_ship", "scores": [
                    seed_score("skill", -0.5, measure="negative_nll"), seed_score("general", 0.5, had=20),
                ]},
                {"seed": 8, "recommendation": "look_closer", "scores": [
                    seed_score("skill", -0.7, measure="negative_nll"), seed_score("general", 0.7, had=0),
                ]},
                {"seed": 9, "recommendation": None, "scores": []},
            ],
            "spread": [
                spread("skill", -0.7, -0.5, measure="negative_nll"),
                spread("general", 0.5, 0.7, kept={"mean": 0.5, "low": 0.5, "high": 0.5}),
            ],
        },
    ),
    "a client's questions": report(
        suite("skill", "base", "candidate"),
        suite("general", "base", "candidate"),
        suite("client", "base", "candidate", name="file mine.jsonl"),
        suite("client", "base", "candidate", name="file long.jsonl", measure="negative_nll"),
    ),
    "nothing was known": report(suite("skill", "base", "candidate"), suite("general", "base", "candidate"),
                                kept=[kept("general", had=0)]),
}  # fmt: skip
