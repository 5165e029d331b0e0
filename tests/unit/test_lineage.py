"""Figures of continual learning over a matrix, and the matrix at a terminal."""

import pytest
from rich.console import Console

from app.cli.lineage_view import show_lineage
from app.domain.lineage import Figures, compute_figures

SCORES = [
    [0.9, 0.2, None],
    [0.7, 0.8, 0.1],
    [0.8, 0.5, 0.9],
]
BASE = [0.0, 0.1, 0.2]


def test_three_skills_in_a_row():
    figures = compute_figures(SCORES, BASE, [0, 1, 2])
    assert figures.average_accuracy == pytest.approx((0.8 + 0.5 + 0.9) / 3)
    assert figures.backward_transfer == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert figures.forgetting == pytest.approx(((0.9 - 0.8) + (0.8 - 0.5)) / 2)
    assert figures.forward_transfer == pytest.approx(((0.2 - 0.1) + (0.1 - 0.2)) / 2)


def test_forgetting_counts_from_the_best_score_and_not_from_the_first():
    scores = [[0.5, None], [0.9, 0.6], [0.6, 0.6]]
    figures = compute_figures(scores, [0.0, 0.0], [0, 1])
    assert figures.backward_transfer == pytest.approx((0.1 + 0.0) / 2)
    assert figures.forgetting == pytest.approx((0.3 + 0.0) / 2)


def test_a_first_version_has_an_average_and_nothing_to_compare_with():
    assert compute_figures([[0.9]], [0.1], [0]) == Figures(0.9, None, None, None)


def test_no_version_has_no_figures():
    assert compute_figures([], [], []) == Figures(None, None, None, None)


def test_a_score_that_is_missing_is_not_averaged_over():
    scores = [[0.9, None, None], [None, 0.8, 0.1], [0.8, 0.5, 0.9]]
    figures = compute_figures(scores, BASE, [0, 1, 2])
    assert figures.average_accuracy == pytest.approx((0.8 + 0.5 + 0.9) / 3)
    assert figures.backward_transfer == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert figures.forgetting is None
    assert figures.forward_transfer is None


def test_a_version_without_questions_of_its_own_is_a_row_without_a_column():
    figures = compute_figures([[0.9], [0.6]], [0.0], [0])
    assert figures == Figures(0.6, pytest.approx(-0.3), pytest.approx(0.3), None)


def cell(score):
    return {"score": score, "low": score - 0.05, "high": score + 0.05, "evaluation_id": "eval-1"}


LINEAGE = {
    "versions": [
        {"adapter": "home", "version": 1, "parent": None},
        {"adapter": "home", "version": 2, "parent": "home:1"},
    ],
    "suites": [
        {"adapter": "home", "version": 1, "measure": "share_right", "n": 40},
        {"adapter": "home", "version": 2, "measure": "share_right", "n": 40},
    ],
    "base": [cell(0.05), None],
    "scores": [[cell(0.9), cell(0.3)], [cell(0.75), cell(0.8)]],
    "figures": {
        "of": "home:2",
        "measure": "share_right",
        "average_accuracy": 0.775,
        "backward_transfer": -0.15,
        "forgetting": 0.15,
        "forward_transfer": None,
    },
}


def shown(lineage, *, colours):
    console = Console(width=100, record=True, force_terminal=colours, color_system="truecolor" if colours else None)
    with console.capture() as capture:
        show_lineage(lineage, console)
    return capture.get()


def test_the_terminal_shows_every_score_and_what_was_not_measured():
    text = shown(LINEAGE, colours=False)
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "5% (0% to 10%)" in rows["base"]
    assert "·" in rows["base"]
    assert rows["home:2"].index("75%") < rows["home:2"].index("80%")
    assert "home:1" in rows["home:2"]
    assert "+15.0 points" in rows["forgetting"]
    assert "not measured" in rows["forward"]


def test_a_better_score_is_greener():
    text = shown(LINEAGE, colours=True)
    red_of_5_percent, green_of_90_percent = "48;2;170;17;40", "48;2;34;170;40"
    assert red_of_5_percent in text
    assert green_of_90_percent in text


def test_the_terminal_says_which_skills_the_figures_leave_out():
    mixed = LINEAGE | {"suites": [LINEAGE["suites"][0], LINEAGE["suites"][1] | {"measure": "negative_nll"}]}
    assert "Up to home:2, over skills whose answers are right or wrong" in shown(mixed, colours=False)
    assert "over skills" not in shown(LINEAGE, colours=False)


def test_the_terminal_says_why_there_are_no_figures():
    """Fault caught: below a table of scores it said that there were no questions."""
    nothing = dict.fromkeys(LINEAGE["figures"])
    text = shown(LINEAGE | {"figures": nothing}, colours=False)
    assert "75% (70% to 80%)" in text
    assert "No figures: every version of this adapter is deleted." in text
    text = shown(LINEAGE | {"figures": nothing | {"of": "home:2"}}, colours=False)
    assert "No figures: nothing was held out of what home:2 and its ancestors were taught." in text


def test_likelihoods_are_nats():
    nats = {"score": -1.25, "low": -1.5, "high": -1.0, "evaluation_id": "eval-1"}
    lineage = LINEAGE | {
        "versions": LINEAGE["versions"][:1],
        "suites": [LINEAGE["suites"][0] | {"measure": "negative_nll"}],
        "base": [None],
        "scores": [[nats]],
        "figures": LINEAGE["figures"] | {"measure": "negative_nll", "average_accuracy": -1.25},
    }
    text = shown(lineage, colours=False)
    assert "-1.25 (-1.50 to -1.00)" in text
    assert "-1.25 nats" in text
