"""The page is one file, escapes what it is given, shows the verdict first, and draws the numbers of the report."""

import re
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from app.domain.gate import GateRule, decide
from tests.unit.evals.reports import SHAPES, bounds, lineage, report, suite
from worker.evals.page import render_html
from worker.evals.schema import Report
from worker.evals.trade_off import trade_off

HOSTILE = "<script>alert('x')</script>"
PLAIN = SHAPES["a first version"]


class _Balance(HTMLParser):
    """Open tags that were never closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(page: str, name: str) -> list[ET.Element]:
    """All drawings of a class."""
    return [ET.fromstring(svg) for svg in re.findall(rf'<svg class="{name}".*?</svg>', page, re.DOTALL)]


def text_of(page: str) -> str:
    """What a reader sees, without the style sheet."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_of_every_shape_is_well_formed_and_asks_for_nothing(shape: str) -> None:
    page = render_html(SHAPES[shape])
    balance = _Balance()
    balance.feed(page)
    assert not balance.open
    assert not re.search(r"(src|href)\s*=|@import|url\(|<script|https?:", page)
    assert "default-src 'none'" in page
    assert all(one.name in text_of(page) for one in SHAPES[shape].suites)


def test_what_comes_from_data_is_escaped_wherever_it_stands() -> None:
    hostile = suite("general", "base", "candidate", name=HOSTILE, text=HOSTILE)
    earlier = suite("earlier", "parent", "candidate", name=f"{HOSTILE}:1", text=HOSTILE)
    skill = suite("skill", "base", "parent", "candidate", text=HOSTILE)
    page = render_html(report(skill, hostile, earlier, text=HOSTILE, lineage=lineage(f"{HOSTILE}:1")))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20


def test_the_recommendation_comes_before_everything_else() -> None:
    text = text_of(render_html(PLAIN))
    assert re.match(r" Evaluation of plain Do not ship it The skill was not learned\.", text)


def test_the_gate_has_its_own_row_below_the_recommendation_with_rule_and_reasons() -> None:
    lost = {"against": "base", "difference": bounds(-0.4), "num_lost": 160, "num_gained": 0, "p_value": 0.001}
    asked = [
        {
            "name": HOSTILE,
            "role": "general",
            "measure": "share_right",
            "n": 400,
            "comparisons": [lost],
            "arms": [{"arm": "base", "num_right": 300}],
        }
    ]
    page = render_html(PLAIN, decide(GateRule(min_gain=0.2, on_pass="production"), asked))
    text = text_of(page)
    at = [text.index(said) for said in ("Do not ship it", "Does it pass its gate? fail", "Was the skill learned?")]
    assert at == sorted(at)
    assert (
        "At 95 % confidence the skill has to gain more than 0.2 and nothing else may score lower by more than 0.1. As "
        "counted, no more than 0.1 of what was right there may be lost. A pass points" in text
    )
    assert f"fail {HOSTILE}: forgetting +0.400 (+0.353 to +0.449) against the base on 400 questions" in text
    assert "insufficient evidence No gain could be measured" in text
    assert "<script" not in page
    balance = _Balance()
    balance.feed(page)
    assert not balance.open


def test_without_a_gate_the_page_speaks_of_none() -> None:
    assert "gate?" not in render_html(PLAIN)


def test_sections_come_in_the_order_in_which_a_reader_asks() -> None:
    page = render_html(SHAPES["a later version"])
    sections = re.findall(r"^<h2>([^<]+)</h2>$", page, re.MULTILINE)
    assert sections == [
        "Gain against forgetting",
        "Scores",
        "The lineage",
        "What was kept",
        "Length of answers",
        "Answers that changed",
        "Items that could not be judged",
        "Behaviour and drift",
        "Cost",
        "What not to conclude",
        "How this was measured",
        "Provenance",
    ]


def test_overlap_entropy_and_weights_stand_with_behaviour_and_drift() -> None:
    text = text_of(render_html(PLAIN))
    assert re.search(r"base 4.0 25 % 1.00 0 % 50 % 0.75 ", text)
    assert "candidate task 16 0.500 0.250 80 %" in text
    assert "Added to the base's weights, relative to their norm: q_proj 1.25 %." in text
    assert "supervised" not in text


def test_drift_and_weights_of_the_twin_stand_beside_the_versions() -> None:
    text = text_of(render_html(SHAPES["an extra arm"]))
    assert "candidate task 16 0.500 0.250 80 % supervised task 16 1.500 1.250 40 %" in text
    assert "Added to the base's weights by plain fine-tuning, relative to their norm: q_proj 2.50 %." in text


def test_answers_of_an_earlier_job_are_owned_up_to() -> None:
    assert "plain: answers of the base and the parent are reused from an earlier job" in render_html(PLAIN)


def test_an_unchanged_score_is_a_miss_for_the_skill_and_fine_for_the_rest() -> None:
    page = render_html(PLAIN)
    assert re.search(r'Was the skill learned\? <span class="chip missed">', page)
    assert re.search(r'Did anything else leave\? <span class="chip same">', page)


def test_scores_stand_beside_the_differences_of_their_arm() -> None:
    text = text_of(render_html(PLAIN))
    assert "base 4/40 10 % 5 to 15 candidate +10 +5 to +15 1, 2 lost, gained p 0.010 same" in text


@pytest.mark.parametrize(("lost", "note"), [(20, "20 of 100, p 0.002 "), (10, "")])
def test_a_share_lost_that_a_verdict_rests_on_stands_with_its_own_p(lost: int, note: str) -> None:
    general = suite("general", "base", "candidate", n=200)
    general["arms"][0]["num_right"] = 100
    general["comparisons"][0] |= {"num_lost": lost, "num_gained": lost, "p_value": 1.0, "loss_p_value": 0.002}
    text = text_of(render_html(report(suite("skill", "base", "candidate"), general)))
    assert f"{lost}, {lost} lost, gained {note}p 1.000" in text


def test_an_extra_arm_is_shown_wherever_arms_are() -> None:
    page = render_html(SHAPES["an extra arm"])
    text = text_of(page)
    assert "supervised : plain fine-tuning on the same data" in text
    assert "supervised gained on skill over base" in text
    assert "Plain fine-tuning on the same data: learned 4 of 20. <b>" in text
    assert len(pictures(page, "supervised")) == 2
    assert [one.get("class") for one in pictures(page, "trade-off")[0].iter("g")] == [
        "point candidate",
        "point supervised",
    ]


def test_what_the_twin_kept_and_lost_is_shown_compactly() -> None:
    text = text_of(render_html(SHAPES["an extra arm"]))
    assert "What plain fine-tuning kept" in text
    kept = text[text.index("What plain fine-tuning kept") :]
    assert " all 6/12 50 % 45 to 55 3 gained other kinds rehearsed 6/12 50 % 45 to 55 3 gained " in kept
    assert "facts" not in kept
    assert "What plain fine-tuning lost general: 1 lost since the base lost? yes \u2192 lost by the twin" in text
    assert "gained by the twin" not in text
    assert "plain fine-tuning kept" not in text_of(render_html(PLAIN))


def with_notes() -> Report:
    """JSON answers, of which the likelihood was measured too."""
    made = PLAIN.model_dump()
    for arm, score in zip(made["suites"][0]["arms"], (0.25, 0.93, 1.0), strict=True):
        arm.update(field_f1=score, nll=2 - score)
    made["suites"][0]["arms"][0]["field_f1"] = None
    return Report.model_validate(made)


def test_field_f1_and_likelihood_are_noted_at_an_arms_score() -> None:
    text = text_of(render_html(with_notes()))
    assert "base 4/40 10 % 5 to 15 nll 1.75 candidate" in text
    assert "candidate 8/40 20 % 15 to 25 F1 0.93, nll 1.07 ceiling" in text
    assert "F1 : over the fields of JSON answers" in text
    assert " nll" not in text_of(render_html(PLAIN))


def test_seeds_stand_below_each_other_with_mean_and_range() -> None:
    text = text_of(render_html(SHAPES["several seeds"]))
    assert "Seed 7 : do not ship; Seed 8 : look closer; Seed 9 : training diverged." in text
    assert "general candidate 7 40 50 % 45 to 55 10/20 50 % 45 to 55 8 40 70 % 65 to 75 0/0 mean, range 60 %" in text
    assert "mean, range 60 % 50 to 70 50 % 50 to 50" in text
    assert "mean, range \u22120.60 \u22120.70 to \u22120.50" in text
    assert "1 tokens trained on, 2 generated without the other seeds" in text
    assert "other seeds" not in render_html(PLAIN).lower()


def axis(svg: ET.Element, name: str, where: str) -> tuple[float, float]:
    """Value at zero pixels and value a pixel, from an axis's labels."""
    ticks = [
        (float(text.get(where, "")), float((text.text or "").replace("\u2212", "-")))
        for text in svg.iter("text")
        if text.get("class") == name
    ]
    (start, low), (end, high) = ticks[0], ticks[-1]
    scale = (high - low) / (end - start)
    return low - start * scale, scale


@pytest.mark.parametrize(("measure", "unit"), [("share_right", 100), ("negative_nll", 1)])
def test_gain_against_forgetting_is_drawn_as_it_was_measured(measure: str, unit: int) -> None:
    skill = suite("skill", "base", "candidate", measure=measure)
    skill["changes"][0]["difference"] = bounds(0.62, 0.5, 0.8)
    general = suite("general", "base", "candidate")
    general["changes"][0]["difference"] = bounds(-0.07, -0.13, 0.02)
    [svg] = pictures(render_html(report(skill, general)), "trade-off")
    (x_zero, x_scale), (y_zero, y_scale) = axis(svg, "x-tick", "x"), axis(svg, "y-tick", "y")
    y_zero += 4 * y_scale  # a label's base line lies under the line that it names
    [point] = svg.iter("g")
    circle = next(point.iter("circle"))
    across, up = point.iter("line")
    drawn = [x_zero + x_scale * float(line.get(end, "")) for line, end in ((across, "x1"), (across, "x2"))]
    assert drawn == pytest.approx([-2, 13], abs=0.1)
    assert x_zero + x_scale * float(circle.get("cx", "")) == pytest.approx(7, abs=0.1)
    heights = [y_zero + y_scale * float(line.get(end, "")) for line, end in ((up, "y1"), (circle, "cy"), (up, "y2"))]
    assert heights == pytest.approx([0.5 * unit, 0.62 * unit, 0.8 * unit], abs=0.005 * unit)


def test_an_arm_stands_at_its_worst_loss_and_its_gain_is_over_the_starting_point() -> None:
    plot = trade_off(SHAPES["a later version"])
    assert plot
    assert plot.start == "parent"
    [arm] = plot.arms
    assert arm.gain.value == pytest.approx(0.1)
    assert [(loss.suite, loss.against) for loss in arm.losses] == [
        ("home:1", "parent"),
        ("general", "parent"),
        ("general", "base"),
    ]
    assert arm.worst.points.value == pytest.approx(-0.1)


def test_the_starting_point_is_told_by_name_in_whatever_order_changes_come() -> None:
    skill = suite("skill", "base", "parent", "candidate")
    skill["changes"].reverse()
    plot = trade_off(report(skill, suite("general", "base", "parent", "candidate")))
    assert plot
    assert (plot.start, plot.arms[0].gain.value) == ("parent", pytest.approx(0.1))


def test_names_of_arms_are_not_written_over_each_other_nor_over_the_edge() -> None:
    skill, general = (suite(role, "base", "candidate", "supervised") for role in ("skill", "general"))
    for one, value in ((skill, 1.0), (general, -0.4)):
        for change in one["changes"]:
            change["difference"] = bounds(value, value, value)
    plot = trade_off(report(skill, general))
    assert plot
    first, second = plot.labels
    assert not first.overlaps(second)
    assert all(label.x >= 50 and label.x + label.width <= 420 for label in plot.labels)


@pytest.mark.parametrize("shape", ["nothing held out", "nothing but the skill", "nothing asked"])
def test_without_a_skill_or_anything_else_there_is_no_trade_off(shape: str) -> None:
    assert trade_off(SHAPES[shape]) is None


@pytest.mark.parametrize(("shape", "low", "high"), [("a first version", 0.0, 1.0), ("free text", -3.05, 0.0)])
def test_bars_are_drawn_on_their_suites_scale(shape: str, low: float, high: float) -> None:
    made = SHAPES[shape]
    drawn = pictures(render_html(made), "interval")
    arms = made.suites[0].arms
    for svg, arm in zip(drawn[: len(arms)], arms, strict=True):
        spread = next(rect for rect in svg.iter("rect") if rect.get("class") == "spread")
        left, right = (100 * (edge - low) / (high - low) for edge in (arm.score.low, arm.score.high))
        assert float(spread.get("x", "")) == pytest.approx(left, abs=0.01)
        assert float(spread.get("x", "")) + float(spread.get("width", "")) == pytest.approx(right, abs=0.02)


def test_the_heat_map_has_a_row_a_version_and_a_dot_where_nobody_asked() -> None:
    page = render_html(SHAPES["a later version"])
    heat = page[page.index('<table class="heat">') :]
    heat = heat[: heat.index("</table>")]
    rows = [
        (version, re.findall(r"--share: ([\d.]+)|(·)", row))
        for version, row in re.findall(r'<th class="arm" scope="row">([^<]+)</th>(.*?)</tr>', heat, re.DOTALL)
    ]
    assert [(version, [share or dot for share, dot in cells]) for version, cells in rows] == [
        ("base", ["0.000", "·"]),
        ("home:1", ["1.000", "0.200"]),
        ("candidate", ["0.600", "0.900"]),
    ]
    assert '<table class="heat">' not in render_html(PLAIN)


def test_likelihoods_are_shaded_between_the_lowest_and_the_highest_of_their_skill() -> None:
    shares = re.findall(r"--share: ([\d.]+)", render_html(SHAPES["free text"]))
    assert shares == ["0.000", "1.000", "0.000", "0.600", "1.000"]


def test_lengths_are_counted_on_one_scale() -> None:
    made = PLAIN.model_dump()
    made["behaviour"][0]["lengths"], made["behaviour"][1]["lengths"] = [2, 2, 9, 64], [0, 4, 4, 4]
    page = render_html(Report.model_validate(made))
    before, after = (pictures(page, arm)[0] for arm in ("base", "candidate"))
    assert before.get("viewBox") == after.get("viewBox") == "0 0 22 1"
    heights = [
        [(round(float(rect.get("x", "")) - 0.06), rect.get("height")) for rect in svg] for svg in (before, after)
    ]
    # 22 bins of 3 tokens; the fullest one of both holds three answers.
    assert heights == [[(0, "0.6667"), (3, "0.3333"), (21, "0.3333")], [(0, "0.3333"), (1, "1.0000")]]


def test_time_is_divided_among_phases_and_parts_are_not_counted_twice() -> None:
    page = render_html(PLAIN)
    [bar] = pictures(page, "cost")
    assert [(rect.get("x"), rect.get("width")) for rect in bar] == [("0.000", "25.000"), ("25.000", "75.000")]
    assert "1 min 40 s until this report" in text_of(page)
    assert "of which evaluation answers" in page


def test_lost_answers_are_open_while_they_are_few() -> None:
    few, many = suite("general", "base", "candidate"), suite("general", "base", "candidate")
    many["flips"] = [many["flips"][0] | {"item": str(count)} for count in range(11)]
    many["changes"][0]["num_lost"] = 11
    assert "<details open><summary><b>general" in render_html(report(few))
    page = render_html(report(many))
    assert "<details open>" not in page
    assert '<span class="lost">11 lost since the base</span>' in page


def test_the_page_has_the_full_count_of_answers_of_which_it_lists_the_first_hundred() -> None:
    general = suite("general", "base", "parent", "candidate")
    flip = general["flips"][0]
    general["flips"] = [flip | {"item": str(count)} for count in range(100)]
    for change, lost in zip(general["changes"], (12, 150), strict=True):
        change["num_lost"] = lost
    text = text_of(render_html(report(general)))
    assert "general: 150 lost since the parent, 12 lost since the base the first 100 are shown" in text
