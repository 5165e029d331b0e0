"""The terminal says what the page says, in its order, of every shape of report."""

import pytest
from rich.console import Console

from app.cli.report_view import show_findings, show_report
from tests.unit.evals.reports import SHAPES, report, suite
from tests.unit.evals.test_page import with_notes


def said(name: str, *, width: int = 120, brief: bool = False) -> str:
    """What a shape looks like, with the ends of lines trimmed."""
    console = Console(width=width, no_color=True)
    show = show_findings if brief else show_report
    with console.capture() as capture:
        show(SHAPES[name].model_dump(mode="json"), None, console)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_shown_with_the_verdict_first(shape: str) -> None:
    assert said(shape).splitlines()[1] == "Do not ship it: the skill was not learned."


def test_sections_come_in_the_order_of_the_page() -> None:
    text = said("a later version")
    headings = (
        "Gain against forgetting",
        "Scores",
        "The lineage",
        "What was kept",
        "Length of answers",
        "Answers that changed in skill",
        "Behaviour",
        "Drift",
        "Cost",
        "Scorer normalized: plain.",
    )
    places = [text.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)


def test_gains_and_losses_stand_with_their_intervals() -> None:
    rows = [" ".join(line.split()) for line in said("an extra arm").splitlines()]
    assert "Plain fine-tuning on the same data: learned 4 of 20. <b>" in rows
    assert "candidate gained on skill over base +10 +5 to +15" in rows
    assert "supervised gained on skill over base +20 +15 to +25" in rows
    assert "supervised lost on general since base -20 -25 to -15" in rows


def test_a_gain_is_one_over_the_starting_point_in_whatever_order_changes_come() -> None:
    made = SHAPES["a later version"].model_dump(mode="json")
    made["suites"][0]["changes"].reverse()
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        show_findings(made, None, console)
    gains = [" ".join(line.split()) for line in capture.get().splitlines() if "gained on" in line]
    assert gains == ["candidate gained on skill over parent +10 +5 to +15"]


def test_what_the_twin_kept_and_lost_is_shown_compactly() -> None:
    rows = [" ".join(line.split()) for line in said("an extra arm").splitlines()]
    begins = rows.index("What plain fine-tuning kept")
    assert rows[begins + 2 : begins + 4] == [
        "general base all 6/12 50% 45 to 55",
        "general base other kinds 6/12 50% 45 to 55",
    ]
    begins = rows.index("Answers that plain fine-tuning lost in general: 1 since the base")
    assert rows[begins + 1 : begins + 3] == ["lost: lost?", "expected yes"]
    assert "supervised lost by the twin" in rows
    assert "supervised gained by the twin" not in rows


def test_field_f1_and_likelihood_are_noted_at_an_arms_score() -> None:
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        show_findings(with_notes().model_dump(mode="json"), None, console)
    rows = [" ".join(line.split()) for line in capture.get().splitlines()]
    begins = rows.index("skill 40 base 10% 5 to 15 +10 +5 to +15 same")
    assert rows[begins + 1 : begins + 4] == ["nll 1.75", "candidate 20% 15 to 25", "F1 0.93 nll 1.07"]
    assert any(row.startswith("F1: over the fields of JSON answers") for row in rows)


def test_scores_stand_beside_the_difference_from_their_arm() -> None:
    rows = [" ".join(line.split()) for line in said("a later version").splitlines()]
    assert "skill 40 base 10% 5 to 15 +20 +15 to +25 same" in rows
    assert "ceiling 40% 35 to 45" in rows


def test_overlap_entropy_and_weights_stand_with_behaviour_and_drift() -> None:
    rows = [" ".join(line.split()) for line in said("a first version").splitlines()]
    assert "skill base 4.0 25% 1.00 0% 50% 0.75" in rows
    assert "candidate task 16 0.500 0.250 80%" in rows
    assert "Added to the base's weights, relative to their norm: q_proj 1.25%." in rows


def test_drift_and_weights_of_the_twin_stand_beside_the_versions() -> None:
    rows = [" ".join(line.split()) for line in said("an extra arm").splitlines()]
    place = rows.index("candidate task 16 0.500 0.250 80%")
    assert rows[place + 1] == "supervised task 16 1.500 1.250 40%"
    assert "Added to the base's weights by plain fine-tuning, relative to their norm: q_proj 2.50%." in rows


def test_seeds_stand_below_each_other_with_mean_and_range() -> None:
    rows = [" ".join(line.split()) for line in said("several seeds").splitlines()]
    begins = rows.index("Other seeds; the first one is this version")
    assert rows[begins + 2 : begins + 10] == [
        "skill candidate 7 40 -0.50 -0.55 to -0.45 do not ship",
        "8 40 -0.70 -0.75 to -0.65 look closer",
        "9 training diverged",
        "mean, range -0.60 -0.70 to -0.50",
        "general candidate 7 40 50% 45 to 55 10/20 50% 45 to 55 do not ship",
        "8 40 70% 65 to 75 look closer",
        "9 training diverged",
        "mean, range 60% 50 to 70 50% 50 to 50",
    ]


def test_tokens_of_other_seeds_are_said_not_to_be_counted() -> None:
    assert "1 tokens trained on, 2 generated without the other seeds; 0.0 GB of memory at the peak." in " ".join(
        said("several seeds").split()
    )
    assert "1 tokens trained on, 2 generated; 0.0 GB of memory at the peak." in " ".join(
        said("a first version").split()
    )


def test_the_lineage_is_a_row_a_version() -> None:
    text = said("a later version")
    table = text[text.index("The lineage") :].splitlines()[1:5]
    assert [line.split()[:2] for line in table] == [
        ["after", "home:1"],
        ["base", "0%"],
        ["home:1", "100%"],
        ["candidate", "60%"],
    ]
    assert "·" in table[1]


def test_lengths_are_drawn_on_one_scale() -> None:
    [line] = {line.strip() for line in said("no ceiling").splitlines() if "█" in line and "skill" in line}
    assert line == "skill    base       ▄  █      ▄       3       10"


def test_answers_that_were_lost_are_shown_with_what_each_arm_said() -> None:
    text = said("an extra arm")
    assert (
        "\nAnswers that changed in general: 1 lost, 1 gained since the base\n"
        "  lost: plain\n    expected plain\n    base plain\n" in text
    )
    assert "  gained: plain\n" in text
    assert "    supervised plain\n" in text


@pytest.mark.parametrize("shape", SHAPES)
def test_at_eighty_columns_nothing_is_cut(shape: str) -> None:
    made = SHAPES[shape].model_dump(mode="json")
    for one in made["suites"]:
        one["name"] += " of general ability, somewhat long"
        for compared in one["comparisons"]:
            compared["verdict"] = "insufficient_evidence"
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        show_report(made, None, console)
    text = capture.get()
    assert "…" not in text
    assert text.count("insufficient") >= sum(len(one["comparisons"]) for one in made["suites"])


def test_findings_leave_the_evidence_out_and_keep_the_caveats() -> None:
    text = said("a first version", brief=True)
    assert "What was kept" in text
    assert "! plain" in text
    assert "Length of answers" not in text


def test_where_no_skill_was_asked_no_scorer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    made = SHAPES["a first version"].model_dump(mode="json")
    made["method"] |= {"scorer": None, "scorer_reason": None, "split": None}
    show_report(made, None, Console(width=160))
    assert not {"Scorer", "None"} & set(capsys.readouterr().out.split())


def test_what_comes_from_data_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[red]x[/nothing]"
    made = report(suite("skill", "base", "candidate", name=hostile, text=hostile), text=hostile)
    show_report(made.model_dump(mode="json"), None, Console(width=160))
    assert capsys.readouterr().out.count(hostile) > 5
