"""The page is one file, escapes what it is given, and shows the verdict first."""

import re
from html.parser import HTMLParser

import pytest

from worker.evals.page import render_html
from worker.evals.schema import (
    ArmScore,
    Behaviour,
    Bounds,
    CeilingQuestion,
    Comparison,
    Cost,
    DriftReport,
    Flip,
    Kept,
    Method,
    Question,
    Report,
    ScorerError,
    SuiteReport,
    Summary,
)

HOSTILE = "<script>alert('x')</script>"


def _report(*, measure: str = "share_right", text: str = "plain") -> Report:
    low, value, high = (0.8, 0.9, 1.0) if measure == "share_right" else (-3.0, -2.0, -1.5)
    bounds = Bounds(value=value, low=low, high=high)
    right = 36 if measure == "share_right" else None
    suite = SuiteReport(
        name=text,
        role="skill",
        measure=measure,
        scorers={"normalized": 1},
        n=40,
        arms=[
            ArmScore(arm=arm, num_right=right, score=bounds, nll=0.2, field_f1=None) for arm in ("base", "candidate")
        ],
        comparisons=[
            Comparison(against="base", difference=bounds, num_lost=0, num_gained=right, p_value=0.01, verdict="same")
        ],
        flips=[
            Flip(
                item="1",
                kind="k",
                change="gained",
                prompt=text,
                expected=[text],
                answers={"base": "", "candidate": text},
            )
        ],
    )
    return Report(
        title=text,
        summary=Summary(
            recommendation="do_not_ship",
            headline="Do not ship it: the skill did not arrive.",
            skill=Question(verdict="same", sentence=text),
            retention=Question(verdict="same", sentence=text),
            ceiling=CeilingQuestion(share=None, sentence=text),
        ),
        suites=[suite],
        kept=[
            Kept(suite="general", group=group, num_kinds=2, num_rehearsed_kinds=1, reference="base", n=9, num_had=0,
                 num_kept=0, num_gained=1, share=None)
            for group in ("all", "facts")
        ],
        drift=[DriftReport(prompts="task", n=16, base_to_candidate=0.5, candidate_to_base=0.25)],
        behaviour=[
            Behaviour(suite=text, arm="base", mean_tokens=3, truncated=0, distinct_4=1, artefacts=0, copied=0)
        ],
        method=Method(scorer="normalized", scorer_reason=text, split=text, heldout_sha256="ab" * 32, template=None,
                      answers_reused={text: ["base", "parent"]},
                      margin=0.1, resamples=10_000, seed=0),
        caveats=[text],
        errors=[ScorerError(suite=text, item="1", arm="base", scorer="json", message=text)],
        cost=Cost(seconds={"evaluation_answers": 75.0}, trained_tokens=1, generated_tokens=2, peak_memory_bytes=3),
        provenance={"config": {"note": text}, "seed": 1, "seeds": [1]},
    )  # fmt: skip


class _Balance(HTMLParser):
    """Open tags that were never closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("measure", ["share_right", "negative_nll"])
def test_the_page_is_well_formed_and_asks_for_nothing(measure: str) -> None:
    page = render_html(_report(measure=measure))
    balance = _Balance()
    balance.feed(page)
    assert not balance.open
    assert not re.search(r"(src|href)\s*=|@import|url\(|<script|https?:", page)
    assert "default-src 'none'" in page


def test_what_comes_from_data_is_escaped() -> None:
    assert "<script" not in render_html(_report(text=HOSTILE))


def test_the_recommendation_comes_before_everything_else() -> None:
    page = render_html(_report())
    body = page[page.index("<body>") :]
    assert body.index("Do not ship it") < body.index("<h2>")


def test_answers_of_an_earlier_job_are_owned_up_to() -> None:
    assert "plain: answers of the base and the parent are reused from an earlier job" in render_html(_report())


def test_an_unchanged_score_is_a_miss_for_the_skill_and_fine_for_the_rest() -> None:
    page = render_html(_report())
    assert re.search(r'Did the skill arrive\? <span class="chip missed">', page)
    assert re.search(r'Did anything else leave\? <span class="chip same">', page)


def test_bars_stay_inside_their_axis() -> None:
    page = render_html(_report(measure="negative_nll"))
    spans = [
        (float(x), float(width))
        for x, width in re.findall(r'class="(?:range|value)" x="([^"]+)"[^>]* width="([^"]+)"', page)
    ]
    assert spans
    assert all(x >= 0 and x + width <= 100.01 for x, width in spans)
